// Second half of make-fixtures.sh: takes the images that the recipes made, measures them, and writes the
// gzipped images, manifest.json and README.md.
//
//   node --import ./test/tooling/typescript.mjs test/tooling/pack-fixtures.ts IMAGES FACTS TARGET
//
// Invariant: every file under IMAGES was described by a recipe, and TARGET holds nothing else afterwards.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { type ErrorCode, EXIT_OF_CODE } from "../../src/errors/index.ts";
import type { Fixture } from "../helpers/fixtures.ts";

const INTRODUCTION = `# Fixtures

Small images that qemu-img and qemu-io 7.2 made, so that tests know what QEMU reads from an image where no
QEMU is installed. Made by \`bash test/tooling/make-fixtures.sh\`, which writes this page and manifest.json too;
change the recipes in test/tooling/fixture-recipes/, not the files here.

Each image is stored as \`NAME.gz\`. Tests unpack it, sparsely, with \`unpackFixture\` of
test/helpers/fixtures.ts, together with the images that have to lie beside it. The hashes are of the unpacked
file and of the guest content: the full virtual disk, as \`qemu-img convert -O raw\` reads it.

Most are sound. The chains and everything under corrupt/ show what has to be refused, and when:

| when | means |
|---|---|
| open | opening the chain is refused with this code |
| write | opening for reading succeeds, and whoever is to write refuses |
| later | opening succeeds, since it reads headers only; whoever reads the damaged table refuses |

Chains are opened with the fixtures' own folder as the workspace. The recipes use a few words that
test/tooling/fixture-recipes/helpers.sh defines: \`new\` is \`qemu-img create\`, \`io\` is \`qemu-io -c\` for each
argument, \`killed\` is the same and then kill -9, \`be16\`, \`be32\`, \`be64\`, \`bytes\` and \`text\` overwrite bytes.

`;

const [, , imagesFolder = "", factsFolder = "", target = ""] = process.argv;
const scratch = mkdtempSync(path.join(tmpdir(), "pack-fixtures-"));

try {
  const fixtures = readdirSync(factsFolder)
    .sort()
    .map((number) => measure(readFacts(path.join(factsFolder, number))));
  refuseUndescribed(fixtures);
  writeTarget(fixtures);
  process.stderr.write(`pack-fixtures: ${fixtures.length} images\n`);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

/** What a recipe says of an image; the rest is measured. */
type Facts = Omit<Fixture, "sizeBytes" | "sha256" | "guest"> & { readonly hashGuest: boolean };

function readFacts(folder: string): Facts {
  const fact = (key: string): string | undefined => {
    const file = path.join(folder, key);
    return existsSync(file) ? readFileSync(file, "utf8") : undefined;
  };
  const required = (key: string): string => {
    const found = fact(key);
    if (found === undefined) throw new Error(`${folder}: the recipe does not say ${key}`);
    return found;
  };
  return {
    name: required("name"),
    shows: required("shows"),
    format: readFormat(fact("format")),
    needs: fact("needs")?.split(" ") ?? [],
    refusal: readRefusal(fact),
    note: fact("note") ?? null,
    hashGuest: fact("guest") !== "no",
    madeBy: required("recipe"),
  };
}

function readFormat(text = "qcow2"): Fixture["format"] {
  if (text === "none") return null;
  if (text === "qcow2" || text === "raw") return text;
  throw new Error(`a recipe says the format ${text}`);
}

function readRefusal(fact: (key: string) => string | undefined): Fixture["refusal"] {
  for (const [key, when] of [
    ["error", "open"],
    ["write", "write"],
    ["later", "later"],
  ] as const) {
    const code = fact(key);
    if (code === undefined) continue;
    if (!isErrorCode(code)) throw new Error(`a recipe says the code ${code}`);
    return { when, code };
  }
  return null;
}

function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(EXIT_OF_CODE, text);
}

/** The manifest has the members in this order. */
function measure({ hashGuest, madeBy, ...facts }: Facts): Fixture {
  const bytes = readFileSync(path.join(imagesFolder, facts.name));
  const guest = hashGuest ? readGuest(facts) : null;
  return { ...facts, sizeBytes: bytes.length, sha256: sha256(bytes), guest, madeBy };
}

/** The whole virtual disk as QEMU reads it. Its data-file names count from the current folder, hence cwd. */
function readGuest({ name, format }: Pick<Fixture, "name" | "format">): Fixture["guest"] {
  const content = path.join(scratch, "guest.raw");
  const image = `./${path.basename(name)}`;
  const cwd = path.join(imagesFolder, path.dirname(name));
  // -U: no lock, hence the dirty and corrupt images stay as they are too.
  const source = `driver=${format},file.driver=file,file.filename=${image}`;
  execFileSync("qemu-img", ["convert", "-U", "--image-opts", "-O", "raw", source, content], { cwd });
  const bytes = readFileSync(content);
  rmSync(content);
  return { sizeBytes: bytes.length, sha256: sha256(bytes) };
}

function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function refuseUndescribed(fixtures: readonly Fixture[]): void {
  const described = new Set(fixtures.map(({ name }) => name));
  for (const entry of readdirSync(imagesFolder, { recursive: true, withFileTypes: true })) {
    const name = path.relative(imagesFolder, path.join(entry.parentPath, entry.name));
    if (entry.isFile() && !described.has(name)) throw new Error(`no recipe describes ${name}`);
  }
}

function writeTarget(fixtures: readonly Fixture[]): void {
  const present = existsSync(target) ? readdirSync(target) : [];
  if (present.length > 0 && !present.includes("manifest.json")) {
    throw new Error(`${target} is not empty and holds no fixtures: nothing was written there`);
  }
  rmSync(target, { recursive: true, force: true });
  for (const { name } of fixtures) {
    const file = path.join(target, `${name}.gz`);
    mkdirSync(path.dirname(file), { recursive: true });
    writeFileSync(file, gzipSync(readFileSync(path.join(imagesFolder, name)), { level: 9 }));
  }
  writeFileSync(path.join(target, "manifest.json"), `${JSON.stringify({ schema: 1, fixtures }, null, 2)}\n`);
  writeFileSync(path.join(target, "README.md"), renderReadme(fixtures));
}

function renderReadme(fixtures: readonly Fixture[]): string {
  return `${INTRODUCTION}${fixtures.map(renderFixture).join("\n")}`;
}

function renderFixture(fixture: Fixture): string {
  const lines = [`## ${fixture.name}`, "", fixture.shows, "", "```sh", fixture.madeBy, "```", ""];
  lines.push(`- file: ${fixture.sizeBytes} bytes, sha256 ${fixture.sha256}`);
  if (fixture.guest) lines.push(`- guest: ${fixture.guest.sizeBytes} bytes, sha256 ${fixture.guest.sha256}`);
  lines.push(`- opened as: ${fixture.format ?? "no format said"}`);
  if (fixture.needs.length > 0) lines.push(`- needs: ${fixture.needs.join(", ")}`);
  if (fixture.refusal) lines.push(`- refused: ${fixture.refusal.when}, ${fixture.refusal.code}`);
  if (fixture.note) lines.push(`- note: ${fixture.note}`);
  lines.push("");
  return lines.join("\n");
}
