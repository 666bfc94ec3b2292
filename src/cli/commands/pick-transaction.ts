// Which of the open transactions a command is about.

import { ImgtxError } from "../../errors/index.ts";
import type { TransactionDescription } from "../../transaction/index.ts";

/** Oldest first, and last those of which nobody knows. */
export function inOrder(transactions: readonly TransactionDescription[]): readonly TransactionDescription[] {
  const startOf = ({ started }: TransactionDescription): string => started ?? "unknown";
  return transactions.toSorted((a, b) => (startOf(a) < startOf(b) ? -1 : Number(startOf(a) > startOf(b))));
}

/** The one with this id or name, or the only one open. E_NO_TRANSACTION or E_TRANSACTION otherwise. */
export function pickTransaction(
  transactions: readonly TransactionDescription[],
  id: string | undefined,
): TransactionDescription {
  const found =
    id === undefined ? transactions : transactions.filter((each) => each.id === id || each.name === id);
  const [first, second] = found;
  if (first === undefined) {
    throw id === undefined
      ? new ImgtxError("E_NO_TRANSACTION", "no transaction is open", { hint: "imgtx txn begin opens one" })
      : new ImgtxError("E_NO_TRANSACTION", `no open transaction is called '${id}'`, {
          hint: "`imgtx txn list` shows those that are open",
        });
  }
  if (second !== undefined) {
    throw new ImgtxError("E_TRANSACTION", "several transactions are open", {
      hint: `say which with --txn: ${found.map((each) => each.id).join(", ")}`,
    });
  }
  return first;
}
