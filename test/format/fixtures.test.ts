// Every fixture is opened as its manifest says: sound ones with the right virtual size, damaged ones refused
// with a typed error that has a place and a hint.

import { describe, expect, test } from "vitest";
import { openChain } from "../../src/format/index.ts";
import { startEffort } from "../helpers/effort.ts";
import { FIXTURES, unpackFixture } from "../helpers/fixtures.ts";
import { errorFrom } from "../helpers/expect-error.ts";
import { makeFolder, watchStorage } from "../helpers/temporary-folder.ts";

const refused = FIXTURES.filter((fixture) => fixture.refusal?.when === "open");
const opened = FIXTURES.filter((fixture) => fixture.refusal?.when !== "open");

function gateOf(folder: string, name: string) {
  const currentFolder = name.includes("/") ? `${folder}/${name.slice(0, name.lastIndexOf("/"))}` : folder;
  return { workspaceRoot: folder, allowPaths: [], currentFolder };
}

describe("fixtures", () => {
  test.each(opened.map((fixture) => [fixture.name, fixture] as const))("%s opens", async (name, fixture) => {
    const folder = makeFolder();
    const path = await unpackFixture(name, folder);
    const { storage, countOpen } = watchStorage();
    const format = fixture.format ?? undefined;
    const chain = await openChain(storage, path, { format, gate: gateOf(folder, name) });
    if (fixture.guest !== null) expect(chain.links[0]?.virtualSizeBytes).toBe(fixture.guest.sizeBytes);
    if (fixture.format !== null) expect(chain.links[0]?.format).toBe(fixture.format);
    await chain.close();
    expect(countOpen()).toBe(0);
  });

  test.each(refused.map((fixture) => [fixture.name, fixture] as const))(
    "%s is refused",
    async (name, fixture) => {
      const folder = makeFolder();
      const path = await unpackFixture(name, folder);
      const { storage, countOpen } = watchStorage();
      const format = fixture.format ?? undefined;
      const effort = startEffort();
      const error = await errorFrom(openChain(storage, path, { format, gate: gateOf(folder, name) }));
      expect(error.code).toBe(fixture.refusal?.code);
      expect(error.image).toBeTypeOf("string");
      expect(error.hint).toBeTypeOf("string");
      expect(`${error.message}${error.hint}`).not.toMatch(/\p{Cc}/u);
      expect(effort()).toBeLessThan(2000);
      expect(countOpen()).toBe(0);
    },
  );
});
