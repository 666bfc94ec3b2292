// Which folder of a layer may import which others of it, as data for layers.ts.

/** Of the transaction layer: data that all of it may know. */
const PLAIN = ["requests", "notes"];

/** Of the command line: what single commands load. */
const FOR_COMMANDS = ["batch", "batch/qmp", "completion", "domain"];
const IMG_PARTS = ["img/grammar", "img/output", "img/images"];

/**
 * What the folders of a layer may import of each other, types included; "" stands for the layer's own files. A file
 * may have a row of its own, where it lies below other folders, or above them, and those beside it do not.
 */
export const FOLDERS: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  storage: {
    "": [],
    kernel: [""],
    native: ["", "kernel"],
    process: ["", "kernel", "native"],
    locks: ["", "kernel", "native"],
    disk: ["", "kernel", "native", "process", "locks"],
  },
  format: {
    "": ["qcow2/codec"],
    "qcow2/codec": [],
    "qcow2/layout": ["qcow2/codec"],
    staged: [],
    chain: ["", "qcow2/codec"],
    read: ["", "qcow2/codec"],
    raw: ["", "chain", "read"],
    "qcow2/check": ["", "chain", "qcow2/codec"],
    "qcow2/read": ["", "chain", "read", "qcow2/codec", "qcow2/check"],
    "qcow2/write": ["", "chain", "read", "qcow2/codec", "qcow2/layout", "qcow2/read"],
    open: ["", "chain", "read", "raw", "qcow2/codec", "qcow2/check", "qcow2/read", "qcow2/write"],
    "qcow2/change": [
      "",
      "chain",
      "open",
      "qcow2/codec",
      "qcow2/layout",
      "qcow2/check",
      "qcow2/read",
      "qcow2/write",
    ],
    "qcow2/repair": ["", "chain", "open", "qcow2/codec", "qcow2/check", "qcow2/change"],
    new: ["", "chain", "read", "open", "qcow2/codec", "qcow2/layout", "qcow2/read"],
    copy: ["", "chain", "read", "open", "new", "qcow2/codec", "qcow2/read", "qcow2/write", "qcow2/change"],
  },
  device: {
    table: [],
    workspace: ["table"],
    history: ["table", "workspace"],
    lock: ["table", "workspace", "history"],
    view: ["table", "workspace"],
    "": ["table", "workspace", "history", "lock", "view"],
  },
  transaction: {
    requests: [],
    notes: [],
    journal: PLAIN,
    images: [...PLAIN, "journal"],
    "actions/plan": [...PLAIN, "journal", "images"],
    "actions/way-back": [...PLAIN, "journal", "images", "actions/plan"],
    "actions/relocate": [...PLAIN, "journal", "images", "actions/plan", "actions/way-back"],
    actions: [...PLAIN, "journal", "images", "actions/plan", "actions/way-back", "actions/relocate"],
    commit: [...PLAIN, "journal", "images", "actions/plan"],
    describe: [...PLAIN, "journal", "actions/plan", "actions"],
    "": [...PLAIN, "describe", "journal"],
    recover: ["", ...PLAIN, "describe", "journal", "images", "commit"],
    engine: ["", ...PLAIN, "describe", "journal", "images", "actions/plan", "actions", "commit", "recover"],
    "session.ts": ["", ...PLAIN, "describe", "journal", "commit", "recover", "engine"],
    "move-workspace.ts": ["", "session.ts", ...PLAIN, "describe", "journal"],
    report: ["", ...PLAIN, "describe"],
    doctor: ["", "session.ts", ...PLAIN, "describe", "actions/plan", "recover", "engine"],
  },
  cli: {
    "": [],
    grammar: [""],
    render: ["", "grammar"],
    "render/progress": ["", "render"],
    "render/report": ["render"],
    running: ["", "grammar", "render", "render/progress"],
    domain: ["grammar", "running"],
    batch: ["grammar"],
    "batch/qmp": ["", "batch", "grammar", "render", "running"],
    completion: ["grammar"],
    "img/grammar": ["", "grammar", "render"],
    "img/output": ["", "render", "render/progress", "img/grammar"],
    "img/command.ts": ["", "grammar", "img/grammar", "img/output"],
    "img/images": ["", "render", "img/command.ts", "img/grammar"],
    "img/commands": ["", "grammar", "render", "img/command.ts", ...IMG_PARTS],
    img: ["", "grammar", "render", "running", "img/command.ts", ...IMG_PARTS, "img/commands"],
    commands: [
      "",
      "grammar",
      "render",
      "render/report",
      "running",
      ...FOR_COMMANDS,
      ...IMG_PARTS,
      "img/commands",
    ],
    "command-table.ts": ["running", "commands", "img"],
    "main.ts": ["", "grammar", "render", "render/progress", "running", "commands", "command-table.ts", "img"],
    "launch.ts": ["", "render", "main.ts"],
  },
};
