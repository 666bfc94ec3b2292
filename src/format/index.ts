// The format layer's face: images, their chains, and new overlays. What is not exported here is its own.

export type { Chain, ChainLink } from "./backing-chain.ts";
export { CHAIN_DEPTH_MAX, filesOf, openChain } from "./backing-chain.ts";
export {
  composeBackingPath,
  explainPlainPaths,
  isProtocolName,
  makeRelativeName,
  stripFilePrefix,
} from "./backing-name.ts";
export { uniteRanges } from "./byte-ranges.ts";
export {
  assertMergeable,
  CHANGE_UNIT_BYTES,
  findRangesAbove,
  mergeChangesOverlay,
  writeChangesOverlay,
} from "./changes-overlay.ts";
export { planBitmapAdd, planBitmapClear, planBitmapRemove, planBitmapsReplaced } from "./bitmap-patch.ts";
export { checkQcow2 } from "./check.ts";
export type { CompareResult } from "./compare.ts";
export { compareImages } from "./compare.ts";
export type { CopyRequest, NewTarget } from "./convert.ts";
export { cloneInto, convertToExisting, convertToNew, fillImage, openExistingTarget } from "./convert.ts";
export { countBytesToCopy } from "./copy.ts";
export { listBitmapsToCopy } from "./copy-bitmaps.ts";
export type { ImagePlan } from "./create.ts";
export { planImage, writeImage } from "./create.ts";
export { createImage } from "./create-image.ts";
export type { CreateOptions } from "./create-options.ts";
export { readDirtyRanges, readWitnessedRanges } from "./dirty-ranges.ts";
export { ExtentCursor } from "./extent-cursor.ts";
export type { BytePatch, FencePatch } from "./qcow2/fence.ts";
export { planFileFence, planImageFence, planImageLift } from "./fence-image.ts";
export { type DifferenceOptions, findDifferences } from "./find-differences.ts";
export type { Fingerprint } from "./fingerprint.ts";
export {
  beforeItsName,
  describeChanges,
  describeContentChanges,
  describeDoubt,
  fingerprintAt,
  identityOf,
  isSameFile,
  settleFingerprint,
  takeFingerprint,
} from "./fingerprint.ts";
export type { Extent, Image } from "./image.ts";
export type { ImageFormat } from "./image-format.ts";
export { parseImageFormat } from "./image-format.ts";
export type { ImageInfo, Qcow2Info } from "./image-info.ts";
export { describeImage, hasStaleBitmaps } from "./image-info.ts";
export { digestContent } from "./content-digest.ts";
export { ImageLeases, waitForLeases } from "./image-leases.ts";
export { claimUnused, holdImages } from "./image-locks.ts";
export type { ImagePatch, PatchWrite } from "./image-patch.ts";
export { MaskedImage } from "./masked-image.ts";
export type { Measured, MeasureSource } from "./measure.ts";
export { measureMergeSpace } from "./merge-space.ts";
export { measureQcow2, measureRaw } from "./measure.ts";
export type { CheckSubject } from "./open-for-check.ts";
export { openForCheck } from "./open-for-check.ts";
export { openForInfo } from "./open-for-info.ts";
export { openForWriting } from "./open-for-writing.ts";
export type { GateOptions } from "./open-gate.ts";
export type { ImageOptions, OpenedImage } from "./open-image.ts";
export { imageOf, openImage } from "./open-image.ts";
export type { OverlayPlan } from "./overlay.ts";
export { planOverlay, writeOverlay } from "./overlay.ts";
export { checkOverlayIsEmpty } from "./overlay-check.ts";
export type { InheritableLayout, OverlayOptions } from "./overlay-options.ts";
export { probeFormat } from "./probe.ts";
export { findMarkedRanges, readBitmapDirectory } from "./qcow2-bitmaps.ts";
export type { SnapshotChoice } from "./qcow2-snapshots.ts";
export { readSnapshotTable, readSoundSnapshots } from "./qcow2-snapshots.ts";
export type { CheckResult } from "./qcow2/check-findings.ts";
export type { SnapshotEntry } from "./qcow2/snapshot-table.ts";
export { canChangeNames, canOpen } from "./owner-access.ts";
export { quoteName, shellQuote } from "./quote-name.ts";
export { describeCutOffImages, requireOpenable } from "./require-openable.ts";
export { settleCutOff, settlePartial } from "./settle-partial.ts";
export { SliceImage } from "./slice-image.ts";
export { stackImages } from "./stacked-image.ts";
