// A status in the text format of Prometheus, for the textfile collector of node_exporter.

import type { DeviceDescription, StatusDescription } from "../../transaction/index.ts";
import { listFacts } from "./status.ts";

interface Metric {
  readonly name: string;
  readonly about: string;
  readonly samples: readonly Sample[];
}

interface Sample {
  readonly labels?: Readonly<Record<string, string>>;
  readonly value: number;
}

export function drawPrometheus(status: StatusDescription): string[] {
  return metricsOf(status).flatMap(({ name, about, samples }) =>
    samples.length === 0
      ? []
      : [
          `# HELP imgtx_${name} ${about}`,
          `# TYPE imgtx_${name} gauge`,
          ...samples.map(({ labels, value }) => `imgtx_${name}${drawLabels(labels)} ${value}`),
        ],
  );
}

function metricsOf(status: StatusDescription): Metric[] {
  const { transactions, snapshots, generation, now } = status;
  const problems = listFacts(status).filter(({ level }) => level === "problem").length;
  const newest = Date.parse(snapshots.newest?.created ?? "");
  const states = [...new Set(transactions.map(({ state }) => state))];
  return [
    {
      name: "problems",
      about: "Facts for which status --check ends with 1.",
      samples: [{ value: problems }],
    },
    {
      name: "checked_timestamp_seconds",
      about: "When this was written.",
      samples: [{ value: seconds(now) }],
    },
    { name: "generation", about: "The present generation.", samples: [{ value: generation }] },
    ...metricsOfDevices(status),
    {
      name: "transactions",
      about: "Transactions that are not ended, by state.",
      samples: states.map((state) => ({
        labels: { state },
        value: transactions.filter((one) => one.state === state).length,
      })),
    },
    { name: "snapshots", about: "Snapshots that are kept.", samples: [{ value: snapshots.count }] },
    {
      name: "newest_snapshot_timestamp_seconds",
      about: "When the newest snapshot was taken.",
      samples: Number.isNaN(newest) ? [] : [{ value: newest / 1000 }],
    },
    ...metricsOfSpace(status),
  ];
}

function metricsOfDevices({ devices }: StatusDescription): Metric[] {
  const each = (
    name: string,
    about: string,
    valueOf: (device: DeviceDescription) => number | null,
  ): Metric => ({
    name,
    about,
    samples: devices.flatMap((device) => {
      const value = valueOf(device);
      return value === null ? [] : [{ labels: { device: device.name }, value }];
    }),
  });
  return [
    each("device_sound", "Whether the state of a device is ok.", ({ state }) => Number(state === "ok")),
    each("device_frozen", "Whether a device is frozen.", ({ frozen }) => Number(frozen)),
    each("device_chain_images", "Images in the chain of a device.", ({ chain }) => chain.length),
    each("device_holders", "Programs that have its images open.", ({ holders }) => holders?.length ?? null),
    each("device_virtual_size_bytes", "Size of the disk.", ({ virtualSizeBytes }) => virtualSizeBytes),
    each("mirror_sound", "Whether the mirror of a device can be opened.", ({ mirror }) =>
      mirror?.standing ? Number(mirror.standing.problem === null) : null,
    ),
    each(
      "mirror_behind_bytes",
      "What a mirror lacks, at most; left out where only comparing tells.",
      ({ mirror }) => mirror?.standing?.behindBytes ?? null,
    ),
    each("mirror_synced_timestamp_seconds", "When a mirror was last brought in sync.", ({ mirror }) =>
      mirror === null || mirror.syncedAt === null ? null : seconds(mirror.syncedAt),
    ),
  ];
}

function metricsOfSpace({ spaces }: StatusDescription): Metric[] {
  const each = (name: string, about: string, key: "freeBytes" | "totalBytes" | "allocatedBytes"): Metric => ({
    name,
    about,
    samples: spaces.map((space) => ({ labels: { folder: space.folder }, value: space[key] })),
  });
  return [
    each("free_bytes", "Free space where images lie.", "freeBytes"),
    each("total_bytes", "Size of the file system where images lie.", "totalBytes"),
    each("allocated_bytes", "What images take there.", "allocatedBytes"),
  ];
}

function seconds(iso: string): number {
  return Date.parse(iso) / 1000;
}

function drawLabels(labels: Sample["labels"]): string {
  const pairs = Object.entries(labels ?? {}).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function escapeLabel(value: string): string {
  return value.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
}
