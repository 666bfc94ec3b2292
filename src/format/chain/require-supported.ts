// What imgtx can decode, and still must not read guest data from or build on.

import { ImgtxError } from "../../errors/index.ts";
import { nameIncompatibleBit, findUnknownIncompatibleBits } from "../qcow2/codec/features.ts";
import { HEADER_AT } from "../qcow2/codec/header.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { escapeName } from "../quote-name.ts";

const ENCRYPTION: Readonly<Record<number, string>> = { 1: "AES", 2: "LUKS" };

/** E_UNSUPPORTED for encryption, and for an incompatible feature that imgtx does not know, by its name. */
export function requireSupported(header: Qcow2Header, image: string): void {
  const unknown = findUnknownIncompatibleBits(header.incompatibleFeatures);
  if (unknown.length > 0) {
    const names = unknown.map((bit) => {
      const name = nameIncompatibleBit(header.featureNames, bit);
      return name === undefined ? `unknown incompatible feature bit ${bit}` : escapeName(name);
    });
    throw new ImgtxError("E_UNSUPPORTED", `Unsupported qcow2 feature(s): ${names.join(", ")}`, {
      image,
      field: "incompatible_features",
      offset: HEADER_AT.incompatibleFeatures,
      hint: "use the tool that gave the image this feature, or a version of imgtx that knows it",
    });
  }
  if (header.cryptMethod !== 0) {
    const method = ENCRYPTION[header.cryptMethod] ?? `method ${header.cryptMethod}`;
    throw new ImgtxError("E_UNSUPPORTED", `the image is encrypted (${method}), which is not supported`, {
      image,
      field: "crypt_method",
      offset: HEADER_AT.cryptMethod,
      hint: "`qemu-img convert` with its secret makes an image without encryption",
    });
  }
}
