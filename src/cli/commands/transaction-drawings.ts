// How transactions are printed, for the commands that print them.

import type { TransactionDescription } from "../../transaction/index.ts";
import type { Drawing } from "../running/report.ts";
import { transactionJson, withSchema } from "../render/json.ts";
import { drawTransaction, drawTransactionList } from "../render/lists.ts";

type Transactions = readonly TransactionDescription[];

const json = (transactions: Transactions): object =>
  withSchema({ transactions: transactions.map(transactionJson) });

export const TRANSACTIONS_IN_FULL: Drawing<Transactions> = {
  text: (transactions, canvas) =>
    transactions.flatMap((transaction, index) => [
      ...(index === 0 ? [] : [""]),
      ...drawTransaction(transaction, canvas),
    ]),
  json,
};

export const TRANSACTION_TABLE: Drawing<Transactions> = {
  text: (transactions, canvas) =>
    transactions.length === 0 ? [] : drawTransactionList(transactions, canvas),
  json,
};

export const TRANSACTION_IDS: Drawing<Transactions> = {
  text: (transactions) => transactions.map(({ id }) => id),
  json,
};

export const ONE_TRANSACTION: Drawing<TransactionDescription> = {
  text: drawTransaction,
  json: (transaction) => withSchema({ transaction: transactionJson(transaction) }),
};
