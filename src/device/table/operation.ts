// What a commit was, as the table that it made says it: its actions, and the id that it was given to be applied once.

import { isCount, isText, listOf, objectOf, orAbsent, orNull } from "./data-shape.ts";

/** What a commit did. */
export interface Operation {
  /** The transaction's name; null: none was given. */
  readonly name: string | null;
  readonly actions: readonly OperationAction[];
}

export interface OperationAction {
  readonly kind: string;
  readonly devices: readonly string[];
  /** The snapshot that a rollback went to. */
  readonly snapshot?: { readonly number: number; readonly name: string | null } | undefined;
  /** The generation that an undo or a redo went to. */
  readonly generation?: number | undefined;
  /** Snapshots that keep some of the devices no more. */
  readonly givenUp?: readonly { readonly number: number; readonly name: string | null }[] | undefined;
}

/** A commit that was given an id: whoever asks for the same once more is answered with it. */
export interface AppliedOnce {
  readonly id: string;
  /** SHA-256 of what was asked for, in hex. */
  readonly digest: string;
  /** What it did, as the transaction layer has written it: JSON. */
  readonly result: string;
}

export const isAppliedOnce = objectOf<AppliedOnce>({ id: isText, digest: isText, result: isText });

export const isOperation = objectOf<Operation>({
  name: orNull(isText),
  actions: listOf(
    objectOf<OperationAction>({
      kind: isText,
      devices: listOf(isText),
      snapshot: orAbsent(
        objectOf<NonNullable<OperationAction["snapshot"]>>({ number: isCount, name: orNull(isText) }),
      ),
      generation: orAbsent(isCount),
      givenUp: orAbsent(
        listOf(
          objectOf<NonNullable<OperationAction["givenUp"]>[number]>({
            number: isCount,
            name: orNull(isText),
          }),
        ),
      ),
    }),
  ),
});
