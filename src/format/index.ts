// The format layer's face: images, their chains, and new overlays. What is not exported here is its own.

export type { Chain, ChainLink } from "./chain/backing-chain.ts";
export type { Qcow2Link } from "./chain/chain-link.ts";
export { filesOf, openChain, pathsOfLink } from "./chain/backing-chain.ts";
export { CHAIN_DEPTH_MAX } from "./chain/chain-errors.ts";
export {
  composeBackingPath,
  explainPlainPaths,
  formatInName,
  isProtocolName,
  localFileOf,
  makeRelativeName,
  stripFilePrefix,
} from "./chain/backing-name.ts";
export { OPTIONS_WITHOUT_EFFECT, readJsonOptions } from "./chain/json-name.ts";
export { uniteRanges } from "./read/byte-ranges.ts";
export { CHANGE_UNIT_BYTES, findRangesAbove, writeChangesOverlay } from "./copy/changes-overlay.ts";
export {
  assertCopyable,
  copyLayers,
  type HowToCopyLayers,
  type LayersToCopy,
  lookAtFiles,
} from "./copy/copy-layers.ts";
export { type CopyUp, copyUp } from "./copy/copy-up.ts";
export { assertMayStandOn } from "./chain/judge-below.ts";
export {
  assertNoSnapshots,
  changeBacking,
  encodeElsewhere,
  type NamesElsewhere,
  judgeBacking,
  type StoredBacking,
  readOwnBacking,
} from "./qcow2/change/change-backing.ts";
export { describeCutOff } from "./chain/missing-tables.ts";
export { findBacking, type FolderOverlays, readOverlaysIn } from "./chain/overlays-beside.ts";
export {
  type Beside,
  besideCandidates,
  findBeside,
  folderBeside,
  isBesideImage,
  placeOfImage,
} from "./journal-beside.ts";
export { findDataFrom } from "./read/data-from.ts";
export {
  addSnapshot,
  applySnapshot,
  createSnapshot,
  deleteSnapshot,
  judgeApplying,
  judgeNewSnapshot,
  judgeSnapshots,
  measureNewSnapshot,
  type NewSnapshot,
} from "./qcow2/change/internal-snapshots.ts";
export { pickSnapshot, readSnapshotTable } from "./qcow2/read/qcow2-snapshots.ts";
export {
  emptyImage,
  judgeResize,
  type Preallocated,
  preallocatedBeside,
  resizeImage,
} from "./qcow2/change/resize-image.ts";
export type { CountRepair } from "./qcow2/repair/count-repairs.ts";
export {
  changesSomething,
  planRepairs,
  type Repairs,
  type RepairScope,
  hasNoChecks,
} from "./qcow2/repair/plan-repairs.ts";
export { makeRepairs } from "./qcow2/repair/repair.ts";
export { judgeUndo, keepUndo, playUndo } from "./qcow2/repair/undo-file.ts";
export type { Amendment } from "./qcow2/change/amend.ts";
export { amendImage, downgradeImage, judgeAmendment, makesNoSmaller } from "./qcow2/change/amend.ts";
export type { BitmapStep } from "./qcow2/change/bitmaps.ts";
export {
  addFirstBitmap,
  changeBitmaps,
  changeFileBitmaps,
  judgeBitmaps,
  judgeFirstBitmap,
} from "./qcow2/change/bitmaps.ts";
export { readBitmapDirectory } from "./qcow2/read/qcow2-bitmaps.ts";
export { checkQcow2 } from "./qcow2/check/check.ts";
export { readCountedEnd } from "./qcow2/check/counted-end.ts";
export type { CompareResult } from "./copy/compare.ts";
export { compareImages } from "./copy/compare.ts";
export type { CopyRequest, NewTarget } from "./copy/convert.ts";
export {
  cloneInto,
  convertToExisting,
  convertToNew,
  fillImage,
  fillUnfinished,
  finishUnfinished,
  openExistingTarget,
} from "./copy/convert.ts";
export { beginningOfRaw, beginUnfinished, emptyUnfinished } from "./new/begin-unfinished.ts";
export { isUnfinishedBy } from "./open/unfinished.ts";
export { countBytesToCopy } from "./copy/copy.ts";
export { flushAlong } from "./copy/flush-along.ts";
export { copyDifferences } from "./copy/copy-differences.ts";
export { planCarriedBitmaps } from "./copy/carry-bitmaps.ts";
export { listBitmapsToCopy } from "./copy/copy-bitmaps.ts";
export type { ImagePlan, Qcow2ImagePlan } from "./new/create.ts";
export { planImage, writeImage } from "./new/create.ts";
export { createImage } from "./new/create-image.ts";
export type { CreateOptions } from "./new/create-options.ts";
export { type BitmapFault, readDirtyRanges, readWitnessedRanges } from "./qcow2/read/dirty-ranges.ts";
export { ExtentCursor } from "./read/extent-cursor.ts";
export { assertNotHalfChanged } from "./open/half-changed.ts";
export { isFencePatch } from "./qcow2/codec/fence.ts";
export {
  isFileFenced,
  liftFileFence,
  planFileFence,
  planImageFence,
  planImageLift,
  findFenceStanding,
  writeStanding,
} from "./qcow2/change/fence-image.ts";
export { type DifferenceOptions, findDifferences } from "./copy/find-differences.ts";
export { type ExaminedImage, examineImage } from "./open/examine-image.ts";
export type { Fingerprint } from "./fingerprint.ts";
export {
  beforeItsName,
  describeChanges,
  describeContentChanges,
  describeDoubt,
  describeUnreadChanges,
  inSmallerVolume,
  describeStatChanges,
  digestHead,
  fingerprintAt,
  isDeviceIdentity,
  isInOverlay,
  hasCoarseTimes,
  identityOf,
  isSameFile,
  mayBeSameFile,
  settleFingerprint,
  takeFingerprint,
} from "./fingerprint.ts";
export type { Extent, Image, WritableImage } from "./image.ts";
export type { ImageFormat, Preallocation } from "./image-format.ts";
export { parseImageFormat } from "./image-format.ts";
export type { ImageInfo, Qcow2Info } from "./qcow2/read/image-info.ts";
export { describeImage, hasStaleBitmaps } from "./qcow2/read/image-info.ts";
export { digestContent, takeContent } from "./read/content-digest.ts";
export { ImageLeases, waitForLeases } from "./image-leases.ts";
export { claimUnused, holdImages } from "./image-locks.ts";
export { MaskedImage } from "./read/masked-image.ts";
export type { Measured, MeasureSource } from "./new/measure.ts";
export { measureSpaceToCopy, type SpaceToCopy } from "./copy/space-to-copy.ts";
export { measureSpaceToCopyUp } from "./copy/space-to-copy-up.ts";
export { measureQcow2, measureRaw } from "./new/measure.ts";
export type { CheckSubject } from "./open/open-for-check.ts";
export { openForCheck } from "./open/open-for-check.ts";
export { measureImageEnd, measureImageRoom } from "./open/image-end.ts";
export { openForInfo } from "./open/open-for-info.ts";
export type { GateOptions } from "./chain/open-gate.ts";
export { isInside, passGate } from "./chain/open-gate.ts";
export type { OpenedImage } from "./open/open-image.ts";
export { imageOf, openImage } from "./open/open-image.ts";
export type { OverlayOptions } from "./new/overlay.ts";
export { planOverlay } from "./new/overlay.ts";
export { checkOverlayIsEmpty } from "./new/overlay-check.ts";
export { isZero } from "./read/zero-blocks.ts";
export { isNamedRaw, probeFormat } from "./probe.ts";
export type { SnapshotChoice } from "./qcow2/read/qcow2-snapshots.ts";
export type { CheckResult } from "./qcow2/check/check-findings.ts";
export type { SnapshotEntry } from "./qcow2/codec/snapshot-table.ts";
export { canChangeNames, canOpen } from "./chain/owner-access.ts";
export { howToFindNames, quoteName, shellQuote, withWorkspaceNamed } from "./quote-name.ts";
export { findCutOffImages, requireOpenable } from "./open/require-openable.ts";
export { tidyCutOff, tidyPartial } from "./qcow2/change/tidy-partial.ts";
export { measureStrips } from "./read/strips.ts";
export { SliceImage } from "./read/slice-image.ts";
export { stackImages } from "./open/stacked-image.ts";
export { isPlaceholder } from "./placeholder.ts";
export { type DeviceReads, isAsRead, RecordedReads } from "./recorded-reads.ts";
export {
  applyLog,
  type FenceBytes,
  type Guard,
  type ObserveFile,
  RedoLog,
  isRedoLogName,
  findRedoLogsOn,
  redoLogName,
  removeRedoLog,
  renewApplied,
  endOfWrites,
  type SealedLog,
  sectorsOfFence,
  StagedStorage,
  type StagingOptions,
  surveyImage,
} from "./staged/index.ts";
export { isReplaced } from "./staged/staged-storage.ts";
