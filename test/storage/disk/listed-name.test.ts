// Names in other letters lead to the name that the folder lists, where the file system finds files by either.

import { expect, test } from "vitest";
import { listedPath, type NameLookup } from "../../../src/storage/disk/listed-name.ts";

const LISTED = new Map([
  ["/usb", ["Images"]],
  ["/usb/Images", ["a.qcow2", "B.QCOW2", "ärger.raw", "7.1"]],
]);

/** A file system at /usb; the rest keeps inode numbers. */
function usb(isSame: (one: string, other: string) => boolean): NameLookup {
  const parts = (path: string): [string, string] => [
    path.slice(0, path.lastIndexOf("/")),
    path.slice(path.lastIndexOf("/") + 1),
  ];
  return {
    keepsInodes: (path) => !path.startsWith("/usb/"),
    isThere: (path) => {
      const [folder, name] = parts(path);
      const names = LISTED.get([...LISTED.keys()].find((one) => isSame(one, folder)) ?? "") ?? [];
      return names.some((one) => isSame(one, name));
    },
    namesIn: (folder) => LISTED.get(folder) ?? [],
  };
}

const folding = usb((one, other) => one.toUpperCase() === other.toUpperCase());

test.each([
  ["/usb/Images/A.QCOW2", "/usb/Images/a.qcow2"],
  ["/usb/IMAGES/b.qcow2", "/usb/Images/B.QCOW2"],
  ["/usb/Images/ÄRGER.raw", "/usb/Images/ärger.raw"],
  ["/usb/Images/a.qcow2", "/usb/Images/a.qcow2"],
  ["/usb/Images/7.1", "/usb/Images/7.1"],
  // A short name of DOS, which no folder lists.
  ["/usb/Images/RGER~1.RAW", "/usb/Images/RGER~1.RAW"],
  ["/srv/A.QCOW2", "/srv/A.QCOW2"],
])("%s is %s", (path, listed) => {
  expect(listedPath(path, folding)).toBe(listed);
});

test("no folder is read where names differ by their letters", () => {
  const lookup = { ...usb((one, other) => one === other), namesIn: () => expect.fail("a folder was read") };
  expect(listedPath("/usb/Images/a.qcow2", lookup)).toBe("/usb/Images/a.qcow2");
});
