// A report as one page of HTML, whole in itself: no script, and nothing that it would load. What was read from anywhere is
// escaped (escape.ts), and the page forbids by itself what could be led in all the same.

import { posix } from "node:path";
import type {
  Allocation,
  Examination,
  HistoryDescription,
  SnapshotDescription,
  StatusDescription,
  TreeDescription,
} from "../../../transaction/index.ts";
import { formatBytes, sayTime } from "../../../units/index.ts";
import { withName } from "../layout.ts";
import { listFacts } from "../status.ts";
import { escapeHtml } from "./escape.ts";
import { drawStripSvg } from "./strip-svg.ts";
import { STYLE } from "./style.ts";
import { drawTreeSvg } from "./tree-svg.ts";

/** Of which every text is printable. */
export interface ReportData {
  readonly status: StatusDescription;
  readonly tree: TreeDescription;
  readonly allocations: readonly Allocation[];
  readonly snapshots: readonly SnapshotDescription[];
  readonly history: HistoryDescription;
  readonly findings: readonly Omit<Examination["findings"][number], "mend">[];
  readonly left: readonly string[];
}

export function drawPage(data: ReportData): string {
  const { root, now, generation } = data.status;
  const sections = [
    drawFindings(data),
    drawState(data),
    drawImages(data),
    drawAllocation(data),
    drawSnapshots(data),
    drawHistory(data),
  ];
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escapeHtml(posix.basename(root))}: disks</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escapeHtml(root)}</h1>
<p class="dim">Generation ${generation}, as it was at ${escapeHtml(sayTime(now))}.</p>
${sections.join("\n")}
</body>
</html>
`;
}

function section(title: string, body: string): string {
  return `<h2>${escapeHtml(title)}</h2>\n${body}`;
}

function drawFindings({ findings, left }: ReportData): string {
  const items = findings.map(({ weight, code, path, text, command }) => {
    const head = `<span class="level">${escapeHtml(weight)}</span> <span class="path">${escapeHtml(path)}</span>`;
    const mends = command === null ? "" : `<pre>${escapeHtml(command)}</pre>`;
    return `<li class="${escapeHtml(weight)}">${head} <span class="dim">${escapeHtml(code)}</span><p>${escapeHtml(text)}</p>${mends}</li>`;
  });
  const list = items.length === 0 ? "<p>All is sound.</p>" : `<ul class="findings">${items.join("\n")}</ul>`;
  const lines = left.map((line) => `<p class="dim">Not looked at: ${escapeHtml(line)}.</p>`);
  return section("Findings", list + lines.join(""));
}

function drawState({ status }: ReportData): string {
  const rows = listFacts(status).map(({ subject, text, level }) => [
    escapeHtml(subject),
    level === "problem"
      ? `<span class="error"><span class="level">${escapeHtml(text)}</span></span>`
      : escapeHtml(text),
  ]);
  return section("State", drawTable(["", ""], rows));
}

function drawImages({ tree }: ReportData): string {
  const words =
    '<p class="dim">Each image to the right of what it stands on. Green: a device&#39;s active layer; blue: kept by a ' +
    "snapshot; dashed: a mirror; red: missing or changed.</p>";
  return section("Images", `${words}<div class="scroll">${drawTreeSvg(tree)}</div>`);
}

function drawAllocation({ tree, allocations }: ReportData): string {
  const known = new Map(allocations.map((one) => [one.image, one]));
  const rows = tree.images.map(({ image, virtualSizeBytes, allocatedBytes }) => {
    const { strip = [], problem = null } = known.get(image) ?? {};
    const size = virtualSizeBytes === null ? "" : formatBytes(virtualSizeBytes);
    const taken = allocatedBytes === null ? "" : formatBytes(allocatedBytes);
    return [
      `<span class="path">${escapeHtml(posix.basename(image))}</span>`,
      problem === null ? drawStripSvg(strip) : `<span class="dim">${escapeHtml(problem)}</span>`,
      escapeHtml(taken),
      escapeHtml(size),
    ];
  });
  return section(
    "Allocation by layer",
    drawTable(["Image", "From the disk's first byte to its last", "Takes", "Disk"], rows),
  );
}

function drawSnapshots({ snapshots }: ReportData): string {
  if (snapshots.length === 0) return section("Snapshots", "<p>None.</p>");
  const rows = snapshots.map(({ number, name, created, message, devices, problem }) => {
    const isWhole = problem === null && devices.every(({ intact }) => intact);
    const bytes = devices.reduce((sum, one) => sum + (one.allocatedSizeBytes ?? 0), 0);
    return [
      escapeHtml(withName(number, name)),
      escapeHtml(created === null ? "" : sayTime(created)),
      escapeHtml(devices.map(({ device }) => device).join(" ")),
      escapeHtml(formatBytes(bytes)),
      escapeHtml([isWhole ? "" : "not what it was", message ?? ""].filter((text) => text !== "").join(": ")),
    ];
  });
  return section("Snapshots", drawTable(["Snapshot", "Taken", "Devices", "Size", ""], rows));
}

function drawHistory({ history: { generations } }: ReportData): string {
  const rows = generations.map(({ generation, committed, summary, name, present, problem }) => [
    `${generation}${present ? " (present)" : ""}`,
    escapeHtml(committed === null ? "" : sayTime(committed)),
    escapeHtml(withName(summary, name)),
    escapeHtml(problem ?? ""),
  ]);
  return section("History", drawTable(["Generation", "Committed", "What", ""], rows));
}

/** The cells are HTML. */
function drawTable(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const head = headings.every((one) => one === "")
    ? ""
    : `<tr>${headings.map((one) => `<th>${escapeHtml(one)}</th>`).join("")}</tr>`;
  const cell = (html: string): string => `<td${html.startsWith("<svg") ? ' class="wide"' : ""}>${html}</td>`;
  const body = rows.map((row) => `<tr>${row.map(cell).join("")}</tr>`);
  return `<table>${head}${body.join("\n")}</table>`;
}
