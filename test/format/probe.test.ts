import { describe, expect, test } from "vitest";
import { probeFormat } from "../../src/format/index.ts";

function bytes(text: string): Uint8Array {
  const padded = new Uint8Array(512);
  padded.set(Buffer.from(text, "latin1"));
  return padded;
}

describe("probing a format", () => {
  test.each([
    ["qcow2", "QFI\xfb\0\0\0\x02"],
    ["qcow2", "QFI\xfb\0\0\0\x03"],
    ["qcow2", "QFI\xfb\0\0\x01\0"],
    ["qcow", "QFI\xfb\0\0\0\x01"],
    ["qed", "QED\0"],
    ["vmdk", "KDMV"],
    ["vmdk", "COWD"],
    ["vmdk", "# Disk DescriptorFile\nversion=1\n"],
    ["vmdk", "# a comment\n\n # Disk DescriptorFile\n"],
    ["vdi", `${"<<< Oracle VM VirtualBox Disk Image >>>\n".padEnd(0x40, "\0")}\x7f\x10\xda\xbe`],
    ["vhdx", "vhdxfile"],
    ["vpc", "conectix"],
    ["luks", "LUKS\xba\xbe\0\x01"],
    ["parallels", "WithoutFreeSpace"],
    ["parallels", "WithouFreSpacExt"],
    ["bochs", "Bochs Virtual HD Image"],
    ["cloop", "#!/bin/sh\n#V2.0 Format\n"],
  ])("recognises %s", (format, head) => {
    expect(probeFormat(bytes(head))).toBe(format);
  });

  test.each([
    ["vpc", "conectix"],
    ["dmg", "koly"],
  ])("recognises %s by its footer", (format, footer) => {
    expect(probeFormat(bytes(""), bytes(footer))).toBe(format);
  });

  test.each([
    ["zeros", ""],
    ["a boot sector", "\xeb\x63\x90"],
    ["the qcow magic with version 0", "QFI\xfb"],
    ["part of a magic", "QFI"],
    ["a shell script", "#!/bin/sh\necho\n"],
  ])("recognises nothing in %s, and never calls it raw", (_, head) => {
    expect(probeFormat(bytes(head))).toBeUndefined();
  });

  test("survives a file of no bytes", () => {
    expect(probeFormat(new Uint8Array(0), new Uint8Array(0))).toBeUndefined();
  });
});
