// Why a backing chain could not be opened, in the words of whoever has to mend it: which image names which
// other one, where the name leads, and what to do.

import { type ErrorDetails, ImgtxError } from "../../errors/index.ts";
import type { ProbedFormat } from "../probe.ts";
import { quoteName, shellQuote } from "../quote-name.ts";

/** A name that an image stores, and where it leads. */
export interface NamedFile {
  readonly what: "backing file" | "external data file";
  /** As stored. */
  readonly name: string;
  readonly path: string;
  /** The image that stores the name. */
  readonly overlayPath: string;
}

/** Images in a chain, the active layer included. A deeper one is most likely a loop, and told as one (E_LOOP). */
export const CHAIN_DEPTH_MAX = 200;

const FIELD_OF = { "backing file": "backing_file_name", "external data file": "data_file_name" } as const;

/** The command that has an overlay stand on another file, whose content it leaves as it is. */
function pointElsewhere(overlayPath: string, file = "FILE", format = "FORMAT"): string {
  return `\`imgtx img rebase -u -b ${shellQuote(file)} -F ${format} ${shellQuote(overlayPath)}\``;
}

function hintAtMissing({ what, overlayPath }: NamedFile): string {
  return what === "backing file"
    ? `put the backing image back, or point the overlay to its new place with ${pointElsewhere(overlayPath)}`
    : "put the data file back, or run from the folder that its name is relative to";
}

/** The error of opening a file that an image names, with who names it. */
export function explainOpenFailure(error: unknown, named: NamedFile): unknown {
  if (!(error instanceof ImgtxError)) return error;
  const { what, name, path, overlayPath } = named;
  if (error.code !== "E_NOT_FOUND") {
    return error.with({ hint: `${quoteName(overlayPath)} names it as its ${what}` });
  }
  return new ImgtxError(
    "E_NOT_FOUND",
    `the ${what} ${quoteName(name)} of ${quoteName(overlayPath)} is not there: it resolves to ${quoteName(path)}`,
    { image: overlayPath, field: FIELD_OF[what], hint: hintAtMissing(named), cause: error },
  );
}

export function notQcow2(
  image: string,
  probed: ProbedFormat | undefined,
  overlayPath: string | undefined,
): ImgtxError {
  const seen = probed === undefined ? "" : `; it looks like ${probed}`;
  const says = overlayPath === undefined ? "" : `, as ${quoteName(overlayPath)} says it is`;
  return new ImgtxError("E_CORRUPT", `the image is not in qcow2 format${says}${seen}`, {
    image,
    field: "magic",
    offset: 0,
    doing: "open",
    hint:
      overlayPath === undefined
        ? "state its real format"
        : `state its real format in the overlay with ${pointElsewhere(overlayPath, image)}`,
  });
}

/** No format was stated, and the image's bytes show none that imgtx changes. */
export function unknownFormat(
  image: string,
  probed: ProbedFormat | undefined,
  overlayPath: string | undefined,
): ImgtxError {
  if (probed !== undefined) {
    return new ImgtxError("E_UNSUPPORTED", `the image is in ${probed} format, which is not supported`, {
      image,
      field: "format",
      hint: "`qemu-img convert -O qcow2` makes a qcow2 image of it",
    });
  }
  const message = "the format of the image would have to be guessed as raw";
  if (overlayPath === undefined) {
    const details: ErrorDetails = { image, field: "format", hint: "if it is a raw image, say --format raw" };
    return new ImgtxError("E_FORMAT_UNKNOWN", message, details);
  }
  return new ImgtxError(
    "E_FORMAT_UNKNOWN",
    `${message}, since ${quoteName(overlayPath)} does not state it (it has no backing format)`,
    {
      image,
      field: "backing_format",
      hint: `if it is a raw image, say so in the overlay with ${pointElsewhere(overlayPath, image, "raw")}`,
    },
  );
}

export function inLoop(image: string, earlierPath: string, overlayPath: string): ImgtxError {
  const there = earlierPath === image ? "" : ` (there as ${quoteName(earlierPath)})`;
  return new ImgtxError("E_LOOP", `the image is in its own backing chain more than once${there}`, {
    image,
    field: "backing_file_name",
    hint: `point the overlay that closes the loop elsewhere with ${pointElsewhere(overlayPath)}`,
  });
}

export function tooDeep(image: string): ImgtxError {
  return new ImgtxError("E_LOOP", `the backing chain is deeper than ${CHAIN_DEPTH_MAX} images`, {
    image,
    field: "backing_file_name",
    hint: "merge some of its layers, the lowest first, with `imgtx img commit OVERLAY`",
  });
}
