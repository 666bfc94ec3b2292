// A device's chain, active layer on top and base at the bottom, one line an image: chains can be deep,
// so nothing is indented by depth.

import { formatBytes } from "../../units/index.ts";
import type { DeviceDescription } from "../../transaction/index.ts";
import type { Canvas } from "./canvas.ts";

export function drawChains(devices: readonly DeviceDescription[], canvas: Canvas): string[] {
  const users = usersOfImages(devices);
  return devices.flatMap((device, index) => [
    ...(index === 0 ? [] : [""]),
    ...drawChain(device, users, canvas),
  ]);
}

function drawChain(
  device: DeviceDescription,
  users: ReadonlyMap<string, readonly string[]>,
  { paint, branch }: Canvas,
): string[] {
  const facts = [
    device.virtualSizeBytes === null ? undefined : formatBytes(device.virtualSizeBytes),
    device.frozen ? "frozen" : undefined,
    device.transaction === null ? undefined : `in transaction ${device.transaction}`,
  ].filter((fact) => fact !== undefined);
  const head = [paint.bold(device.name), paint.dim(facts.join(", "))]
    .filter((part) => part !== "")
    .join("  ");
  const chain = device.chain.length > 0 ? device.chain : [{ image: device.image, format: device.format }];
  const lines = chain.map((element, depth) => {
    const last = depth === chain.length - 1 && device.problem === null;
    const others = (users.get(element.image) ?? []).filter((name) => name !== device.name);
    const about = [
      element.format,
      ...(depth === 0 ? ["active layer"] : []),
      ...(others.length > 0 ? [`also under ${others.join(", ")}`] : []),
    ].join(", ");
    const image = depth === 0 ? paint.green(element.image) : element.image;
    return `${paint.dim(last ? branch.last : branch.more)} ${image}  ${paint.dim(about)}`;
  });
  const problem = device.problem === null ? [] : [`${paint.dim(branch.last)} ${paint.red(device.problem)}`];
  return [head, ...lines, ...problem];
}

function usersOfImages(devices: readonly DeviceDescription[]): ReadonlyMap<string, readonly string[]> {
  const users = new Map<string, string[]>();
  for (const { name, chain } of devices) {
    for (const { image } of chain) users.set(image, [...(users.get(image) ?? []), name]);
  }
  return users;
}
