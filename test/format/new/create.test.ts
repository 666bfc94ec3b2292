import { statSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { planImage, writeImage } from "../../../src/format/new/create.ts";
import type { CreateOptions } from "../../../src/format/new/create-options.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { openGuest, openHostImage } from "../../helpers/guest-content.ts";
import { structureProblems } from "../../helpers/qcow2-structure.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const storage = makeNodeStorage();
const MIB = 1024 ** 2;

async function create(sizeBytes: number, options: CreateOptions): Promise<string> {
  const path = `${makeFolder()}/disk`;
  const plan = await planImage({ format: "qcow2", virtualSizeBytes: sizeBytes, options });
  const file = await storage.createFile(path, 0o600);
  await writeImage({ file }, plan);
  await file.close();
  return path;
}

const OPTIONS: CreateOptions[] = [512, 4096, 65_536, 2 ** 21].flatMap((clusterSizeBytes) =>
  ["off", "metadata", "falloc", "full"].flatMap((preallocation) => [
    { clusterSizeBytes, preallocation },
    { clusterSizeBytes, preallocation, refcountBits: 64 },
    { clusterSizeBytes, preallocation, refcountBits: 1 },
    { clusterSizeBytes, preallocation, compat: "0.10" },
  ]),
);

describe("a new image", () => {
  test.each(OPTIONS)("of %o is sound, and reads as zeros", async (options) => {
    const path = await create(3 * MIB + 512, options);
    expect(structureProblems(openHostImage(path), path)).toEqual([]);
    const guest = openGuest(openHostImage, path, "qcow2");
    expect(guest.sizeBytes).toBe(3 * MIB + 512);
    expect(guest.read(0, guest.sizeBytes).every((byte) => byte === 0)).toBe(true);
  });

  test("takes space on the disk for what it was told to", async () => {
    const allocated = async (preallocation: string) => {
      const path = await create(8 * MIB, { preallocation });
      const file = await storage.openFile(path, "write");
      await file.flush("test");
      await file.close();
      return statSync(path).blocks * 512;
    };
    expect(await allocated("off")).toBeLessThan(64 * 1024);
    expect(await allocated("metadata")).toBeLessThan(256 * 1024);
    expect(await allocated("falloc")).toBeGreaterThanOrEqual(8 * MIB);
    expect(await allocated("full")).toBeGreaterThanOrEqual(8 * MIB);
  });

  test("has the size of what it stands on where none is given, in whole sectors", async () => {
    const options = { backingFileName: "base", backingFormat: "raw" };
    const request = { format: "qcow2", virtualSizeBytes: undefined, options } as const;
    const plan = await planImage({ ...request, backingSizeBytes: 1000 });
    expect(plan.virtualSizeBytes).toBe(1024);
    const refusal = await errorFrom(planImage(request));
    expect(refusal.message).toBe("Image creation needs a size parameter");
    expect(refusal.code).toBe("E_USAGE");
  });

  test("of 1 PiB with all its metadata is planned or refused in little memory", async () => {
    const options = { preallocation: "metadata", clusterSizeBytes: 2 ** 21 };
    const plan = await planImage({ format: "qcow2", virtualSizeBytes: 2 ** 50, options });
    expect(plan.virtualSizeBytes).toBe(2 ** 50);
    const small = { preallocation: "metadata", clusterSizeBytes: 512, refcountBits: 64 };
    const refusal = planImage({ format: "qcow2", virtualSizeBytes: 127 * 1024 * MIB, options: small });
    expect((await errorFrom(refusal)).code).toBe("E_UNSUPPORTED");
  });

  test("refuses a backing file name that has no room", async () => {
    const options = { clusterSizeBytes: 512, backingFileName: "x".repeat(500), backingFormat: "raw" };
    const planning = planImage({ format: "qcow2", virtualSizeBytes: MIB, options });
    expect((await errorFrom(planning)).code).toBe("E_UNSUPPORTED");
    const longer = { backingFileName: "x".repeat(1024), backingFormat: "raw" };
    const refusal = planImage({ format: "qcow2", virtualSizeBytes: MIB, options: longer });
    expect((await errorFrom(refusal)).code).toBe("E_USAGE");
  });
});
