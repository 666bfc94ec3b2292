// What may differ where a guest has written: its own line, the files that hold the write, and what is said of them.

import type { GuestWrite } from "../subject.ts";

export function guestLine({ device }: GuestWrite): RegExp {
  return new RegExp(`^guest of ${device}: .*$`, "m");
}

/** Whether a line says that nobody can tell what became of what was written to the image. */
export function isDoubtSaid(text: string, { image }: GuestWrite): boolean {
  return text.split("\n").some((line) => line.includes(image) && line.includes("can't be told"));
}

interface Written {
  readonly files: ReadonlySet<string>;
  /** Whether recovery says that a snapshot of the device holds, or may hold, what was written after its commit. */
  readonly isKept: boolean;
}

/** What may differ: files that the guest wrote to, those that it is brought into, and those that recovery leaves and says so. */
export function findWritten(states: readonly string[], { files, device }: GuestWrite, text: string): Written {
  const left = [...text.matchAll(/left '([^']+)' as it is/g)].map(([, path]) => path ?? "");
  const brought = states.flatMap((one) =>
    [...one.matchAll(/^file (.*) mode \d+ guest [0-9a-f]+/gm)].map(([, path]) => path ?? ""),
  );
  return {
    files: new Set([...files, ...left, ...brought]),
    isKept: text.includes(`the snapshot of '${device}'`),
  };
}

export function withoutWritten(
  observed: string,
  { files, isKept }: Written,
  { device, image }: GuestWrite,
): string {
  const kept = new RegExp(`(?<=^snapshot .* ${device} ${image} shows) [^\\s,]+( changed)?`);
  return observed
    .split("\n")
    .filter(
      (line) =>
        ![...files].some((path) => ["file", "device"].some((kind) => line.startsWith(`${kind} ${path} `))),
    )
    .filter((line) => !/^(guest of the mirror|history) /.test(line))
    .map((line) => (isKept ? line.replace(kept, " what was written") : line))
    .join("\n");
}

/**
 * The lines of an end and of the wanted one, without those of mirrors that hold in the end what their devices do: a mirror that a
 * recovery has brought along is right, also where none of the later steps does so.
 */
export function withoutMirrorsInSync(
  found: string,
  wanted: string,
): readonly [found: string, wanted: string] {
  const inSync = [...found.matchAll(/^guest of (\S+): (.*)$/gm)].flatMap(([, name = "", content = ""]) =>
    found.split("\n").includes(mirrorLine(name) + content) ? [mirrorLine(name)] : [],
  );
  const without = (end: string) =>
    end
      .split("\n")
      .filter((line) => !inSync.some((mirror) => line.startsWith(mirror)))
      .join("\n");
  return [without(found), without(wanted)];
}

function mirrorLine(name: string): string {
  return `guest of the mirror of ${name}: `;
}
