// What a file says of the workspaces that know it is anybody's data: only folders are made of it, and not too many.

import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { beforeEach, describe, expect, test } from "vitest";
import { readSignpost, setSignpost } from "../../../src/device/workspace/signposts.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const NAME = "user.imgtx.workspaces";
const node = makeNodeStorage();

/** The disk with attributes of its own, in memory: some have none. */
function withAttributes(): Storage & { readonly values: Map<string, Uint8Array> } {
  const values = new Map<string, Uint8Array>();
  return {
    ...node,
    values,
    readAttribute: async (path) => values.get(path),
    setAttribute: async (path, _name, value) => {
      values.set(path, value);
      return true;
    },
  };
}

describe("a file that says which workspaces know it", () => {
  let storage: ReturnType<typeof withAttributes>;
  const say = (text: string | Uint8Array): void => void storage.values.set("/a", Buffer.from(text));
  const said = async (): Promise<readonly string[]> => await readSignpost(storage, "/a");
  beforeEach(() => {
    storage = withAttributes();
  });

  test("says nothing where there is none, and has the latest first", async () => {
    expect(await said()).toEqual([]);
    expect(await setSignpost(storage, "/a", "/vm")).toBe(true);
    expect(await setSignpost(storage, "/a", "/vm/b\n")).toBe(true);
    expect(await said()).toEqual(["/vm/b\n", "/vm"]);
  });

  test("is not written to where it has the workspace already", async () => {
    say('["/other","/vm"]');
    expect(await setSignpost(storage, "/a", "/vm")).toBe(false);
    expect(await said()).toEqual(["/other", "/vm"]);
  });

  test("forgets the oldest where there is no room for all", async () => {
    for (let number = 0; number < 20; number += 1) await setSignpost(storage, "/a", `/vm/${number}`);
    expect(await said()).toHaveLength(16);
    expect((await said())[0]).toBe("/vm/19");
    const long = `/${"x".repeat(1800)}`;
    await setSignpost(storage, "/a", long);
    expect((await said())[0]).toBe(long);
    expect(storage.values.get("/a")!.length).toBeLessThanOrEqual(2048);
    expect(await setSignpost(storage, "/a", `/${"y".repeat(3000)}`)).toBe(false);
    expect((await said())[0]).toBe(long);
  });

  test.each<[string, string | Uint8Array]>([
    ["no JSON", "/vm"],
    ["bytes that are no text", Uint8Array.from([0xff, 0x00, 0x22])],
    ["no list", '{"0":"/vm"}'],
    ["more than texts", '["/vm",7]'],
    ["too much", `["/vm","/${"x".repeat(4096)}"]`],
    ["names that are no folder's", JSON.stringify(["vm", "../vm", "/vm/../etc", "/vm/", "/v\0m", "//vm"])],
  ])("leads nowhere where it has %s", async (_, text) => {
    say(text);
    expect(await said()).toEqual([]);
    expect(await setSignpost(storage, "/a", "/vm")).toBe(true);
    expect(await said()).toEqual(["/vm"]);
  });

  test("leads to no more than a few, whoever wrote it", async () => {
    say(JSON.stringify(Array.from({ length: 400 }, (_, number) => `/${number}`)));
    expect(await said()).toHaveLength(16);
  });
});

describe("on the disk", () => {
  test("what has no such attributes is passed over", async () => {
    for (const path of ["/proc/version", "/dev/null", `${makeFolder()}/nothing`]) {
      expect(await setSignpost(node, path, "/vm"), path).toBe(false);
      expect(await readSignpost(node, path), path).toEqual([]);
    }
  });

  test("a file and a folder keep theirs, where there are any", async () => {
    const own = makeFolder();
    const file = `${own}/image`;
    writeFileSync(file, "content");
    mkdirSync(`${own}/folder`);
    symlinkSync("image", `${own}/link`);
    const can = await node.setAttribute(file, NAME, Buffer.from("[]"));
    for (const path of [file, `${own}/folder`]) {
      expect(await setSignpost(node, path, "/vm")).toBe(can);
      expect(await readSignpost(node, path)).toEqual(can ? ["/vm"] : []);
    }
    expect(await readSignpost(node, `${own}/link`)).toEqual(can ? ["/vm"] : []);
  });
});
