import { expect, test } from "vitest";
import { withoutMirrorsInSync } from "./guest-writes.ts";

const end = (device: string, mirror: string): string =>
  [`guest of vda: ${device}`, "guest of vdb: 8 bytes, b", `guest of the mirror of vda: ${mirror}`].join("\n");

test("a mirror that holds what its device does is right, whatever is wanted of it", () => {
  const [found, wanted] = withoutMirrorsInSync(
    end("8 bytes, a", "8 bytes, a"),
    end("8 bytes, a", "8 bytes, old"),
  );
  expect(found).toBe(wanted);
});

test("one that holds anything else is as wanted, or wrong, and so is a device", () => {
  const [found, wanted] = withoutMirrorsInSync(
    end("8 bytes, a", "8 bytes, b"),
    end("8 bytes, a", "8 bytes, old"),
  );
  expect(found).not.toBe(wanted);
  const [other, asked] = withoutMirrorsInSync(
    end("8 bytes, c", "8 bytes, c"),
    end("8 bytes, a", "8 bytes, old"),
  );
  expect(other).not.toBe(asked);
});
