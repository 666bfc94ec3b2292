// The ImgtxError that a call throws; any other outcome fails the test.

import { ImgtxError } from "../../src/errors/index.ts";

export function errorOf(call: () => unknown): ImgtxError {
  let outcome: unknown;
  try {
    outcome = call();
  } catch (error) {
    if (error instanceof ImgtxError) return error;
    throw error;
  }
  throw new Error(`not refused: ${JSON.stringify(outcome)}`);
}

export async function errorFrom(promise: Promise<unknown>): Promise<ImgtxError> {
  let outcome: unknown;
  try {
    outcome = await promise;
  } catch (error) {
    if (error instanceof ImgtxError) return error;
    throw error;
  }
  throw new Error(`not refused: ${String(outcome)}`);
}

/** Of a call that may throw at once or later. */
export async function failureOf(call: () => unknown): Promise<ImgtxError> {
  return await errorFrom((async () => await call())());
}
