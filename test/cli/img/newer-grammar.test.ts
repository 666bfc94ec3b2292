// The spellings that newer versions of qemu-img have: each does what the older one does with qemu-img 7.2.

import { readdirSync } from "node:fs";
import { describe, expect } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { makeFolder, runImg, runQemu, shell } from "../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
qemu-img create -q -f qcow2 base.qcow2 2M
qemu-io -f qcow2 -c 'write -P 1 0 1M' base.qcow2 > /dev/null
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2
qemu-img create -q -f qcow2 -b over.qcow2 -F qcow2 top.qcow2
`;

describe("newer spellings do what the older ones do", () => {
  qemu.test.each([
    [
      "create --quiet --format=qcow2 --options cluster_size=4k z 1M",
      "create -q -f qcow2 -o cluster_size=4k z 1M",
    ],
    [
      "create --format qcow2 --backing base.qcow2 --backing-format qcow2 z",
      "create -f qcow2 -b base.qcow2 -F qcow2 z",
    ],
    ["create -f qcow2 -b base.qcow2 -B qcow2 z", "create -f qcow2 -b base.qcow2 -F qcow2 z"],
    ["create -f qcow2 --backing-unsafe -b none -B raw z 1M", "create -f qcow2 -u -b none -F raw z 1M"],
    ["check --cache none --quiet over.qcow2", "check -T none -q over.qcow2"],
    [
      "convert --source-format qcow2 --target-format raw --sparse-size 8k --parallel 2 --oob-writes base.qcow2 z",
      "convert -f qcow2 -O raw -S 8k -m 2 -W base.qcow2 z",
    ],
    [
      "convert --compress -O qcow2 --target-format-options cluster_size=4k base.qcow2 z",
      "convert -c -O qcow2 -o cluster_size=4k base.qcow2 z",
    ],
    [
      "convert -O qcow2 -b base.qcow2 -F qcow2 over.qcow2 z",
      "convert -O qcow2 -B base.qcow2 -F qcow2 over.qcow2 z",
    ],
    [
      "convert --progress --target-cache none --source-cache none base.qcow2 z",
      "convert -p -t none -T none base.qcow2 z",
    ],
    [
      "compare --a-format qcow2 --b-format qcow2 --strict base.qcow2 over.qcow2",
      "compare -f qcow2 -F qcow2 -s base.qcow2 over.qcow2",
    ],
    ["measure --target-format qcow2 -s 1G", "measure -O qcow2 --size 1G"],
    [
      "measure --source-format qcow2 --target-format-options cluster_size=4k -O qcow2 base.qcow2",
      "measure -f qcow2 -o cluster_size=4k -O qcow2 base.qcow2",
    ],
    [
      "convert --source-image-opts driver=qcow2,file.filename=base.qcow2 --output-format qcow2 --options cluster_size=4k z",
      "convert --image-opts driver=qcow2,file.filename=base.qcow2 -O qcow2 -o cluster_size=4k z",
    ],
    ["measure --options cluster_size=4k -O qcow2 --size 1G", "measure -o cluster_size=4k -O qcow2 --size 1G"],
    ["info --cache none base.qcow2", "info base.qcow2"],
    ["dd --output-format qcow2 --format qcow2 if=base.qcow2 of=z", "dd -O qcow2 -f qcow2 if=base.qcow2 of=z"],
    ["resize top.qcow2 1M --shrink", "resize --shrink top.qcow2 1M"],
    ["rebase --backing base.qcow2 -B qcow2 top.qcow2", "rebase -b base.qcow2 -F qcow2 top.qcow2"],
    ["commit --drop --rate-limit 1G --base base.qcow2 top.qcow2", "commit -d -r 1G -b base.qcow2 top.qcow2"],
    ["snapshot --create one over.qcow2", "snapshot -c one over.qcow2"],
  ])("%s", async (newer, older) => {
    const [ourFolder, qemuFolder] = [makeFolder(), makeFolder()];
    for (const folder of [ourFolder, qemuFolder]) shell(folder, IMAGES);
    const theirs = runQemu(qemuFolder, older.split(" "));
    const ours = await runImg(ourFolder, newer.split(" "));
    const steady = (text: string): string => text.replaceAll(/\(\d+\.\d+\/100%\)|disk size.*|\s+\r/g, "");
    expect({ ...ours, stdout: steady(ours.stdout) }).toEqual({ ...theirs, stdout: steady(theirs.stdout) });
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
  });

  qemu.test("what an older version took for the beginning of an option still means that", async () => {
    const folder = makeFolder();
    shell(folder, IMAGES);
    // Of --target-image-opts, --target-is-zero and now of others, too.
    const words = ["convert", "--target-im", "-n", "base.qcow2", "driver=raw,file.filename=z"];
    expect(await runImg(folder, words)).toEqual(runQemu(folder, words));
    expect(await runImg(folder, ["check", "--out=json", "base.qcow2"])).toMatchObject({ status: 0 });
  });
});
