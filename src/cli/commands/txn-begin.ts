// imgtx txn begin

import { ImgtxError } from "../../errors/index.ts";
import type { TransactionDescription } from "../../transaction/index.ts";
import type { WriteFailure } from "../context.ts";
import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import {
  type Invocation,
  lockWait,
  openSession,
  type OpenSession,
  runOptions,
} from "../running/invocation.ts";
import type { Drawing } from "../running/report.ts";
import { withSchema } from "../render/json.ts";
import { WOULD } from "./would.ts";
import { readName, readOnError, TRANSACTION_OPTIONS } from "./transaction-options.ts";

/** The id alone, for `id=$(imgtx txn begin)`. */
const BEGUN: Drawing<TransactionDescription> = {
  text: ({ id }) => [id],
  json: ({ id, name, started, onError }) =>
    withSchema({ changed: true, transaction: id, name, started, "on-error": onError }),
};

export const txnBegin: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [],
    options: TRANSACTION_OPTIONS,
    about:
      "Opens a transaction and prints its id, alone, on stdout. Actions join it: they are checked and " +
      "prepared at once, and take effect together with `imgtx txn commit`. It stays open when this " +
      "command ends, and across a reboot. Several may be open if they are about different devices; then " +
      "--txn or IMGTX_TXN says which one is meant.",
    examples: [
      { command: "imgtx txn begin", about: "the commands that follow join it" },
      { command: "id=$(imgtx txn begin --name nightly)", about: "keep the id in a script" },
      { command: "imgtx txn begin --on-error abort", about: "one refused action undoes all of it" },
    ],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const { input, report } = invocation;
    const name = readName(input);
    const onError = readOnError(input);
    const { engine, session } = await openSession(invocation);
    if (invocation.settings.dryRun) {
      report.done({ saying: "a transaction would be opened", transaction: null }, WOULD);
      return 0;
    }
    const begun = await engine.beginTransaction(
      session,
      { name, onError, owned: false },
      lockWait(invocation),
    );
    await begun.release();
    report.answer(begun.description, BEGUN);
    // A name that the caller gave is known to him, whatever became of the id.
    const failure = await (name === undefined ? report.findLoss() : report.findWriteFailure());
    if (failure) throw await takeBack(invocation, { engine, session }, begun.description.id, failure);
    return 0;
  },
};

/** A transaction that nobody was told of would collect the next commands from here. Its abort is durable. */
async function takeBack(
  invocation: Invocation,
  { engine, session }: OpenSession,
  id: string,
  { reason, hint }: WriteFailure,
): Promise<ImgtxError> {
  const why = `the id of the transaction could not be written: ${reason}`;
  try {
    await engine.abortTransaction(session, id, { ...runOptions(invocation, false), signal: undefined });
    return new ImgtxError("E_FAILED", `${why}; it is taken back`, hint === undefined ? {} : { hint });
  } catch (cause) {
    if (!(cause instanceof ImgtxError)) throw cause;
    return new ImgtxError("E_FAILED", `${why}; and it could not be taken back: ${cause.message}`, {
      changed: true,
      hint: `\`imgtx txn abort ${id}\` takes it back`,
      cause,
    });
  }
}
