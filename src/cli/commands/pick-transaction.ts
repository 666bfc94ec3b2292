// Which of the open transactions a command is about, by its words.

import { ImgtxError } from "../../errors/index.ts";
import type { TransactionDescription } from "../../transaction/index.ts";
import type { ArgumentDefinition } from "../grammar/definition.ts";
import type { Invocation } from "../running/invocation.ts";

export const TRANSACTION_ID: ArgumentDefinition = {
  name: "ID",
  about: "the transaction, by its id or its name; else that of --txn, else that which was begun here",
  optional: true,
  completes: "transaction",
};

/** Undefined where nothing was named: then it is the one that was begun here. */
export function readTransactionId({ input, settings }: Invocation): string | undefined {
  return input.text("ID") ?? settings.transaction;
}

/** --force ends what nobody can take for another. */
export function requireId(id: string | undefined, verb: string): string {
  if (id !== undefined) return id;
  throw new ImgtxError("E_USAGE", "--force wants the id of the transaction", {
    hint: `\`imgtx txn status\` lists those that wait; then \`imgtx txn ${verb} --force ID\``,
  });
}

/** Oldest first, and last those of which nobody knows. */
export function inOrder(transactions: readonly TransactionDescription[]): readonly TransactionDescription[] {
  const startOf = ({ started }: TransactionDescription): string => started ?? "unknown";
  return transactions.toSorted((a, b) => (startOf(a) < startOf(b) ? -1 : Number(startOf(a) > startOf(b))));
}
