// How images stand on each other: loops, depth, what was written below an overlay, raw images that a guest has made look
// like another format, and merges that would ruin a neighbour.

import { describeChanges, type Fingerprint, identityOf, quoteName, shellQuote } from "../../format/index.ts";
import type { Patient } from "./census.ts";
import { type Finding, finding } from "./findings.ts";
import { deviceOn, type Scene, whoCallsItRaw } from "./scene.ts";
import { DEEP_CHAIN } from "../actions/plan/new-overlay.ts";
import type { TransactionDescription } from "../describe/results.ts";

export function judgeChains(scene: Scene): Finding[] {
  return [
    ...scene.given.flatMap((patient) => judgeImitation(scene, patient)),
    ...scene.images.flatMap((patient) => [...judgeDepth(scene, patient), ...judgeAge(scene, patient)]),
    ...scene.wards.flatMap((ward) => ward.entries.flatMap((entry) => judgeBelow(scene, entry))),
    ...judgeMerges(scene),
  ];
}

function judgeDepth(scene: Scene, patient: Patient): Finding[] {
  const { path } = patient;
  const chain = [patient];
  for (let next = patient.backing?.target; next; next = next.backing?.target) {
    if (chain.includes(next)) {
      // Told once, of an image that is in the loop itself.
      const isIn = next === patient;
      const text =
        chain.length === 1
          ? "it backs itself: QEMU opens it again and again, until it has no memory left"
          : `it backs itself, through ${chain
              .slice(1)
              .map((one) => quoteName(one.path))
              .join(", ")}`;
      return isIn
        ? [
            finding("backing-loop", {
              path,
              text: `${text}; \`imgtx img rebase -u -b NAME -F FORMAT ${shellQuote(path)}\` has it stand on what it should`,
            }),
          ]
        : [];
    }
    chain.push(next);
  }
  if (chain.length <= DEEP_CHAIN || patient.overlays.length > 0) return [];
  const owner = deviceOn(scene, patient);
  const text = `its chain has ${chain.length} images, more than ${DEEP_CHAIN}: each read may have to ask all of them`;
  const command = owner
    ? `imgtx --workspace ${shellQuote(owner.root)} pull ${shellQuote(owner.entry.name)}`
    : `imgtx img rebase -f qcow2 -b '' ${shellQuote(path)}`;
  return [finding("chain-deep", { path, text, command })];
}

/** CVE-2026-24708, CVE-2024-40767, CVE-2008-2004: a guest writes a header, and whoever guesses the format follows it. */
function judgeImitation({ wards }: Scene, patient: Patient): Finding[] {
  const { path, image } = patient;
  const { probed } = image;
  const why = whoCallsItRaw(patient, wards);
  // The footer of a fixed VHD lies after the data of what is raw else.
  if (probed === undefined || probed === "vpc" || why === undefined) return [];
  const text =
    `${why}, and its bytes look like ${probed}: a guest may have written them, to be led to files of the host by who ` +
    "guesses the format";
  const command = `imgtx img convert -f raw -O qcow2 ${shellQuote(path)} ${shellQuote(`${path}.qcow2`)}`;
  return [finding("raw-imitates", { path, text, command })];
}

/** What a snapshot of a running guest may still write to the image that it has left. */
const GRACE_NS = 60_000_000_000n;

/** Where no table knows what the backing image was. */
function judgeAge(scene: Scene, patient: Patient): Finding[] {
  const below = patient.backing?.target;
  if (
    below?.image.stat.kind !== "file" ||
    below === patient ||
    deviceOn(scene, patient) ||
    isKnownBelow(scene, below)
  )
    return [];
  const [own, base] = [patient.image.stat, below.image.stat];
  const [written, born] = [BigInt(base.modifiedNs), BigInt(own.bornNs)];
  const isAfterBirth = born > 0n && written > born + GRACE_NS;
  if (written <= BigInt(own.modifiedNs) && !isAfterBirth) return [];
  const when = isAfterBirth ? "was made" : "was last written to";
  const text =
    `its backing image ${quoteName(below.path)} was written to after it ${when}: where that was no merge, ` +
    "and both were not copied, what a guest sees of it is damaged, and no tool can tell";
  return [finding("backing-newer", { path: patient.path, text })];
}

function isKnownBelow({ wards }: Scene, { image }: Patient): boolean {
  return wards.some(({ below }) => below.has(identityOf(image.stat)));
}

/** What a table knows of the images below a device's active layer. */
function judgeBelow(
  { census }: Scene,
  {
    chain,
    name,
    fences,
  }: { readonly chain: readonly Seen[]; readonly name: string; readonly fences: ReadonlySet<string> },
): Finding[] {
  return chain.slice(1).flatMap(({ image, fingerprint }) => {
    const now = census.at(image)?.image.fingerprint;
    if (!now || fences.has(image)) return [];
    const changes = describeChanges(fingerprint, now);
    if (changes.length === 0) return [];
    const text = `it was changed below device ${name}, which stands on it: ${changes.join(", ")}`;
    return [finding("backing-changed", { path: image, device: name, text })];
  });
}

interface Seen {
  readonly image: string;
  readonly fingerprint: Fingerprint;
}

function judgeMerges(scene: Scene): Finding[] {
  return scene.wards.flatMap(({ root, transactions }) =>
    transactions
      .filter(({ state }) => state === "open" || state === "committed")
      .flatMap(({ id, actions }) => actions.flatMap((action) => judgeMerge(scene, action, { root, id }))),
  );
}

/** An open transaction merges into an image, and somebody else stands on that. */
function judgeMerge(
  { census, wards }: Scene,
  { device, files }: TransactionDescription["actions"][number],
  { root, id }: { readonly root: string; readonly id: string },
): Finding[] {
  const gone = new Set(files.map(({ path }) => path));
  const entries = wards.flatMap((ward) => ward.entries).filter(({ name }) => name === device);
  const own = new Set(entries.flatMap(({ chain }) => chain.map(({ image }) => image)));
  return files.flatMap(({ path, change }) => {
    const overlays = change === "merge" ? (census.at(path)?.overlays ?? []) : [];
    const stranger = overlays.find((one) => !gone.has(one.path) && !own.has(one.path));
    if (!stranger) return [];
    const text = `transaction ${id} is to merge into it, and ${quoteName(stranger.path)} stands on it too, which that would ruin`;
    const command = `imgtx --workspace ${shellQuote(root)} txn abort ${id}`;
    return [finding("merge-ruins-overlay", { path, device, text, command })];
  });
}
