// Folders: listed, made, removed.

import { describe, expect, test } from "vitest";
import { makeFileWith, pattern, type MakeStorage } from "./subject.ts";
import { failureOf } from "../../helpers/expect-error.ts";

export function describeFolders(makeStorage: MakeStorage): void {
  describe("folders", () => {
    test("names come sorted, hidden ones too", async () => {
      const { storage, root } = await makeStorage();
      for (const name of ["b", "a", ".c", "Z"])
        await (await storage.createFile(`${root}/${name}`, 0o600)).close();
      expect(await storage.readFolder(root)).toEqual([".c", "Z", "a", "b"]);
    });

    test("links are told from files and folders, whatever they lead to", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/folder`, 0o700);
      await (await storage.createFile(`${root}/file`, 0o600)).close();
      await storage.makeSymlink("file", `${root}/b`);
      await storage.makeSymlink("/not/there", `${root}/.a`);
      await storage.makeSymlink("../b", `${root}/folder/deep`);
      const { names, special } = await storage.readKinds(root);
      expect(names.toSorted()).toEqual([".a", "b", "file", "folder"]);
      expect(special.toSorted()).toEqual([".a", "b"]);
      expect((await failureOf(() => storage.readKinds(`${root}/none`))).code).toBe("E_NOT_FOUND");
      expect((await failureOf(() => storage.readKinds(`${root}/file`))).code).toBe("E_NOT_A_FILE");
    });

    test("a folder is made once", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/a`, 0o750);
      expect(await storage.stat(`${root}/a`)).toMatchObject({ kind: "folder", mode: 0o750 });
      expect((await failureOf(() => storage.makeFolder(`${root}/a`, 0o700))).code).toBe("E_EXISTS");
    });

    test("flushFolder leaves the names as they are", async () => {
      const { storage, root } = await makeStorage();
      await (await storage.createFile(`${root}/a`, 0o600)).close();
      await storage.flushFolder(root, "names");
      expect(await storage.readFolder(root)).toEqual(["a"]);
    });

    test("removeFolder takes a whole tree and not what its links point to", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/kept`, 0o700);
      await (await makeFileWith(storage, `${root}/kept/a`, pattern(5))).close();
      await storage.makeFolder(`${root}/tree`, 0o700);
      await storage.makeFolder(`${root}/tree/deep`, 0o700);
      await storage.makeFolder(`${root}/tree/deep/er`, 0o700);
      await (await storage.createFile(`${root}/tree/deep/er/b`, 0o600)).close();
      await storage.makeSymlink("../../kept", `${root}/tree/deep/link`);
      await storage.removeFolder(`${root}/tree`);
      expect(await storage.readFolder(root)).toEqual(["kept"]);
      expect(await storage.readFolder(`${root}/kept`)).toEqual(["a"]);
    });

    test("removeFolder takes a flat folder of links and not what they point to", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/kept`, 0o700);
      await (await storage.createFile(`${root}/kept/a`, 0o600)).close();
      await storage.makeFolder(`${root}/view`, 0o700);
      await storage.makeSymlink("../kept", `${root}/view/folder`);
      await storage.makeSymlink("../kept/a", `${root}/view/file`);
      await storage.removeFolder(`${root}/view`);
      expect(await storage.readFolder(root)).toEqual(["kept"]);
      expect(await storage.readFolder(`${root}/kept`)).toEqual(["a"]);
    });

    test("removeFolder of an empty folder alone is refused where something is in it, which stays", async () => {
      const { storage, root } = await makeStorage();
      await storage.makeFolder(`${root}/full`, 0o700);
      await (await storage.createFile(`${root}/full/a`, 0o600)).close();
      const remove = async () => await storage.removeFolder(`${root}/full`, { onlyEmpty: true });
      expect((await failureOf(remove)).code).toBe("E_EXISTS");
      expect(await storage.readFolder(`${root}/full`)).toEqual(["a"]);
      await storage.removeFile(`${root}/full/a`);
      await remove();
      expect(await storage.statLink(`${root}/full`)).toBeUndefined();
    });

    test("removeFolder of nothing is no error; of a link to a folder it is refused", async () => {
      const { storage, root } = await makeStorage();
      await storage.removeFolder(`${root}/none`);
      await storage.makeFolder(`${root}/kept`, 0o700);
      await storage.makeSymlink("kept", `${root}/link`);
      expect((await failureOf(() => storage.removeFolder(`${root}/link`))).code).toBe("E_NOT_A_FILE");
      expect(await storage.readFolder(root)).toEqual(["kept", "link"]);
    });
  });
}
