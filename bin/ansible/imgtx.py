"""Runs actions of imgtx on the disks of a workspace, all or nothing, and once."""

# What ansible reads of it: DOCUMENTATION, EXAMPLES and RETURN. The tests run it with Debian's ansible-core.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: imgtx
short_description: Change disk images, all or nothing
description:
  - Runs a batch of imgtx's actions on the devices of a workspace, in one transaction.
  - In check mode it is planned, and nothing is changed.
  - Each run has an id, so that what is tried again, here or by the next play, is applied once.
options:
  workspace:
    description: The folder that is the workspace.
    type: path
    required: true
  actions:
    description: Lines of a batch, an action each, with quotes as in a shell; see imgtx-txn(1), run.
    type: list
    elements: str
    required: true
  txn_id:
    description:
      - An id for these actions. Where they were applied by it already, nothing is done, and changed is false.
      - Without one each run is a new one.
    type: str
  wait:
    description: For how many seconds imgtx waits for locks.
    type: int
    default: 0
  retries:
    description: How often it is tried again where somebody has an image or a device (10, 11), or it is not finished (16).
    type: int
    default: 3
  delay:
    description: Seconds between two tries.
    type: int
    default: 5
  executable:
    description: The program.
    type: str
    default: imgtx
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: A snapshot of both disks before the upgrade
  imgtx:
    workspace: /srv/guests
    txn_id: "upgrade-{{ release }}"
    actions:
      - snapshot-group vda vdb --name before-upgrade
"""

RETURN = r"""
applied:
  description: When an earlier run did it by the same id; null where this one did.
  type: str
  returned: success
transaction:
  description: The id of the transaction; null in check mode.
  type: str
  returned: success
generation:
  description: The generation of the workspace.
  type: int
  returned: success
actions:
  description: What each action did, as imgtx-json(7) says.
  type: list
  returned: success
devices:
  description: The devices that they touched.
  type: list
  returned: success
snapshots:
  description: The snapshots that were taken.
  type: list
  returned: success
error:
  description: What imgtx said, with code, message, device, image and hint.
  type: dict
  returned: failure
rc:
  description: The exit status of imgtx.
  type: int
  returned: always
attempts:
  description: How often it was run.
  type: int
  returned: always
"""

import json
import os
import tempfile
import time
import uuid

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_bytes

# Somebody has an image or the workspace; a transaction stands in the way; committed, and the next command finishes it.
AGAIN = (10, 11, 16)
UNFINISHED = 16


def read_outcome(printed):
    """The result on stdout; None where there is none."""
    try:
        outcome = json.loads(printed)
    except ValueError:
        return None
    return outcome if isinstance(outcome, dict) and outcome.get("schema") == 1 else None


def read_error(complaint):
    """The error among the lines of stderr."""
    text = complaint.strip()
    at = text.rfind('{"schema":1,"error"')
    candidates = [text[at:]] if at >= 0 else []
    candidates += [text] + text.splitlines()
    for candidate in candidates:
        try:
            found = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("error"), dict):
            return found["error"]
    return {"code": None, "message": text or "imgtx said nothing", "hint": None}


def make_diff(actions):
    """Which image each device is on, and which files come and go."""
    before, after = [], []
    for action in actions:
        device = action.get("device")
        if device is not None and action.get("before") != action.get("after"):
            before.append("%s: %s\n" % (device, action.get("before")))
            after.append("%s: %s\n" % (device, action.get("after")))
        for each in action.get("files") or []:
            after.append("%s %s\n" % (each.get("change"), each.get("path")))
    return {"before": "".join(before), "after": "".join(after)}


def write_batch(module, lines):
    """A file of its own. On stdin, a program that ends without having read it is a broken pipe, and its status is lost."""
    number, path = tempfile.mkstemp(prefix="imgtx-batch-", dir=module.tmpdir)
    module.add_cleanup_file(path)
    with os.fdopen(number, "wb") as batch:
        batch.write(to_bytes("".join(line + "\n" for line in lines)))
    return path


def main():
    module = AnsibleModule(
        argument_spec={
            "workspace": {"type": "path", "required": True},
            "actions": {"type": "list", "elements": "str", "required": True},
            "txn_id": {"type": "str"},
            "wait": {"type": "int", "default": 0},
            "retries": {"type": "int", "default": 3},
            "delay": {"type": "int", "default": 5},
            "executable": {"type": "str", "default": "imgtx"},
        },
        supports_check_mode=True,
    )
    given = module.params
    if not given["actions"] or any("\n" in line for line in given["actions"]):
        module.fail_json(msg="actions: at least one is wanted, and each is a line", rc=64, attempts=0)
    program = module.get_bin_path(given["executable"], required=True)
    # One id for all tries: a try whose answer was lost may have been applied.
    once = given["txn_id"] or "ansible-%s" % uuid.uuid4()
    workspace = os.path.abspath(given["workspace"])
    words = [program, "--workspace", workspace, "txn", "run", "--json", "--txn", "none"]
    words += ["--txn-id", once, "--wait=%d" % given["wait"]]
    if module.check_mode:
        words.append("--dry-run")
    words.append(write_batch(module, given["actions"]))
    attempts = 0
    is_ours = given["txn_id"] is None
    while True:
        attempts += 1
        status, printed, complaint = module.run_command(words, cwd=workspace)
        is_ours = is_ours or status == UNFINISHED
        if status not in AGAIN or attempts > given["retries"]:
            break
        time.sleep(given["delay"])
    outcome = read_outcome(printed) if status == 0 else None
    if outcome is None:
        error = read_error(complaint)
        said = [error.get("message"), error.get("hint")]
        module.fail_json(
            msg="; ".join(part for part in said if part), error=error, rc=status, attempts=attempts
        )
    applied = outcome.get("applied")
    changed = outcome["changed"]
    if applied is not None:
        changed = is_ours
    elif module.check_mode:
        changed = len(outcome["actions"]) > 0
    result = {
        "changed": changed,
        "applied": applied if not is_ours else None,
        "rc": status,
        "attempts": attempts,
        "snapshots": outcome.get("snapshots", []),
    }
    for key in ("transaction", "generation", "actions", "devices"):
        result[key] = outcome[key]
    if changed:
        result["diff"] = make_diff(outcome["actions"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
