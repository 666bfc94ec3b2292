// What an action of QMP comes to before the device table has been looked at, and how it becomes requests
// when it has.

import { ImgtxError } from "../../../errors/index.ts";
import type {
  ActionRequest,
  DeviceDescription,
  MirrorRequest,
  MirrorTarget,
} from "../../../transaction/index.ts";

/** What QMP calls a node: here the name of a device, else a file. */
interface NodeReference {
  /** As it was written. */
  readonly name: string;
  /** Absolute, should it be a file. */
  readonly path: string;
}

export type Step =
  | { readonly kind: "request"; readonly request: ActionRequest }
  /** A copy that the device table keeps as the device's mirror. */
  | { readonly kind: "copy"; readonly target: MirrorTarget }
  /** A copy that is made once, and that the device table does not keep as a mirror. */
  | { readonly kind: "backup"; readonly target: MirrorTarget; readonly into: NodeReference | undefined }
  /** An overlay that exists becomes the active layer. */
  | { readonly kind: "overlay"; readonly device: string; readonly overlay: NodeReference };

type Devices = readonly Pick<DeviceDescription, "name" | "image" | "mirror">[];

/** Whether resolveSteps has a use for the device table. */
export function needsDevices(steps: readonly Step[]): boolean {
  return steps.some(({ kind }) => kind === "backup" || kind === "overlay");
}

/**
 * Copies that stand side by side become one request, which fills them together, as QEMU's jobs run together.
 * E_REFUSED for a backup of a device that has a mirror.
 */
export function resolveSteps(steps: readonly Step[], devices: Devices): ActionRequest[] {
  const requests: ActionRequest[] = [];
  const mirrored = new Set(devices.filter(({ mirror }) => mirror !== null).map(({ name }) => name));
  for (let index = 0; index < steps.length; ) {
    const copies = takeCopies(steps.slice(index), devices, mirrored);
    if (copies) {
      requests.push(...copies.requests);
      index += copies.length;
      continue;
    }
    const step = steps[index];
    if (step?.kind === "request") requests.push(step.request);
    else if (step?.kind === "overlay") requests.push(takeOverlay(step, devices));
    index += 1;
  }
  return requests;
}

/** The copies that the steps begin with, up to the second one of a device. Undefined where there are none. */
function takeCopies(
  steps: readonly Step[],
  devices: Devices,
  mirrored: Set<string>,
): { requests: ActionRequest[]; length: number } | undefined {
  const targets: MirrorTarget[] = [];
  const forgotten: string[] = [];
  for (const step of steps) {
    const target = targetOf(step, devices);
    if (!target || targets.some(({ device }) => device === target.device)) break;
    if (step.kind === "backup") {
      assertNotMirrored(target.device, mirrored);
      forgotten.push(target.device);
    }
    targets.push(target);
  }
  if (targets.length === 0) return undefined;
  for (const { device } of targets) {
    if (!forgotten.includes(device)) mirrored.add(device);
  }
  const copy: MirrorRequest = { kind: "mirror", targets };
  // A backup is done when it is copied. Kept as the device's mirror it would show up as one that lags.
  const forget: ActionRequest[] = forgotten.length > 0 ? [{ kind: "mirror-cancel", devices: forgotten }] : [];
  return { requests: [copy, ...forget], length: targets.length };
}

function targetOf(step: Step, devices: Devices): MirrorTarget | undefined {
  if (step.kind === "backup") {
    const { target, into } = step;
    return into ? { ...target, file: findDevice(devices, into)?.image ?? into.path } : target;
  }
  return step.kind === "copy" ? step.target : undefined;
}

function assertNotMirrored(device: string, mirrored: ReadonlySet<string>): void {
  if (!mirrored.has(device)) return;
  throw new ImgtxError("E_REFUSED", "it has a mirror, and imgtx keeps one copy of a device at a time", {
    device,
    hint: `bring the mirror in sync with \`imgtx mirror ${device}\`, or forget it with \`imgtx mirror ${device} --cancel\`, and then back up`,
  });
}

/**
 * The snapshot checks what it is given. No device can have this overlay already, since two devices never have
 * one active layer in their chains: to name a device here is a mistake that the snapshot explains.
 */
function takeOverlay(step: Extract<Step, { kind: "overlay" }>, devices: Devices): ActionRequest {
  const file = findDevice(devices, step.overlay)?.image ?? step.overlay.path;
  return {
    kind: "snapshot",
    targets: [{ device: step.device, file, format: "qcow2" }],
    relative: false,
    reuse: true,
    overlay: {},
  };
}

function findDevice(devices: Devices, { name }: NodeReference): Devices[number] | undefined {
  return devices.find((device) => device.name === name);
}
