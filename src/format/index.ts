// The format layer's face: images, their chains, and new overlays. What is not exported here is its own.

export type { Chain, ChainLink } from "./backing-chain.ts";
export { CHAIN_DEPTH_MAX, openChain } from "./backing-chain.ts";
export { composeBackingPath, isProtocolName, makeRelativeName } from "./backing-name.ts";
export type { ImagePlan, ImageRequest, NewImageFiles } from "./create.ts";
export { planImage, writeImage } from "./create.ts";
export type { CreateOptions } from "./create-options.ts";
export type { Fingerprint } from "./fingerprint.ts";
export { describeChanges, describeContentChanges, fingerprintAt, takeFingerprint } from "./fingerprint.ts";
export { holdImages } from "./image-locks.ts";
export type { ImageFormat } from "./image-format.ts";
export { parseImageFormat } from "./image-format.ts";
export type { GateOptions } from "./open-gate.ts";
export type { OverlayPlan } from "./overlay.ts";
export { planOverlay, writeOverlay } from "./overlay.ts";
export { checkOverlayIsEmpty } from "./overlay-check.ts";
export type { InheritableLayout, OverlayOptions } from "./overlay-options.ts";
export { probeFormat } from "./probe.ts";
export { quoteName } from "./quote-name.ts";
export { checkQcow2 } from "./check.ts";
export type { CheckResult, FindingSink } from "./qcow2/check-findings.ts";
export type { Extent, ExtentKind, Image, ImageLayer, WritableImage } from "./image.ts";
export type { ImageOptions, OpenedImage } from "./open-image.ts";
export { openImage } from "./open-image.ts";
export { findMarkedRanges, readBitmapDirectory } from "./qcow2-bitmaps.ts";
export { readSnapshotTable, readSoundSnapshots } from "./qcow2-snapshots.ts";
