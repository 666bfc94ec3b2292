// imgtx completion bash|zsh|fish

import type { PlainCommand } from "../running/command.ts";
import { PRINTING_EXITS } from "../grammar/exit-status.ts";
import type { CompletionModel } from "../completion/model.ts";

export const completionBash = completion("bash", {
  command: "imgtx completion bash > ~/.local/share/bash-completion/completions/imgtx",
  write: async (model) => (await import("../completion/bash.ts")).writeBash(model),
});

export const completionZsh = completion("zsh", {
  command: 'imgtx completion zsh > "${fpath[1]}/_imgtx"',
  write: async (model) => (await import("../completion/zsh.ts")).writeZsh(model),
});

export const completionFish = completion("fish", {
  command: "imgtx completion fish > ~/.config/fish/completions/imgtx.fish",
  write: async (model) => (await import("../completion/fish.ts")).writeFish(model),
});

function completion(
  shell: string,
  how: { command: string; write(model: CompletionModel): Promise<string> },
): PlainCommand {
  return {
    kind: "plain",
    definition: {
      arguments: [],
      options: [],
      about:
        `Prints a script that makes ${shell} complete imgtx's commands and options, the names of devices and ` +
        "snapshots of the workspace, and the ids of its transactions.",
      examples: [{ command: how.command, about: "for every new shell" }],
      exits: PRINTING_EXITS,
    },
    async execute({ commands, report }) {
      const { buildModel } = await import("../completion/model.ts");
      report.print((await how.write(await buildModel(commands))).trimEnd().split("\n"));
      return 0;
    },
  };
}
