// What the actions of one input have in common: the current folder, and the names that they give to nodes.

import { type Members, refused } from "./members.ts";
import type { Step } from "./steps.ts";

/** Reads the data of one action. Its caller sees to it that no member is left unread. */
export type ActionReader = (data: Members, scope: Scope) => Step[];

export class Scope {
  readonly cwd: string;
  readonly #nodes = new Map<string, string>();

  constructor(cwd: string) {
    this.cwd = cwd;
  }

  /**
   * A name that QEMU would give to a node. imgtx has devices and no nodes, so the name is dropped, but kept
   * in mind: an action that speaks of it later must not meet a device that happens to be called so.
   */
  giveNode(data: Members, member: string): void {
    const name = data.optionalText(member);
    if (name !== undefined) this.#nodes.set(name, data.at(member));
  }

  device(data: Members, member: string): string {
    const name = data.name(member);
    const givenAt = this.#nodes.get(name);
    if (givenAt === undefined) return name;
    throw refused(data.at(member), `'${name}' is a node, by ${givenAt}, and imgtx keeps no names of nodes`, {
      hint: "name the device; it leads to its active layer",
    });
  }
}
