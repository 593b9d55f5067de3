//! What `vmshare help` prints. The list of settings comes from the table; there is no second list to fall behind.

use super::{Setting, reference};

/// The commands, for `vmshare help` and for `vmshare` alone.
pub(super) const COMMANDS: &str = "\
vmshare - a Linux desktop in the browser for hundreds of people, from one host

Usage: vmshare [--config FILE] COMMAND [OPTIONS]

  serve    start the server
  check    say what this host lacks to run it, and how to mend that
  clean    remove half uploads and run folders that nothing needs any more
  user     add people, change passwords and roles, invite
  vm       list VMs, show one, stop some, whether a server runs or not
  image    list, check, add and remove images that everybody may start
  version  print the version
  help     print this, or `vmshare help COMMAND` for one command
";

/// `vmshare help check`.
pub(super) const CHECK: &str = "Says what this host lacks to run the server, and how to mend it. With --telegram it only sends a test message\n\
     to the chat of the settings and says what came of it.";

/// `vmshare help clean`.
pub(super) const CLEAN: &str = "Removes half uploads whose time is over, files of uploads without a row, and run folders of VMs that have ended,\n\
     and says so of each; with --dry-run it only says what it would remove. The server does the same once an hour.";

/// `vmshare help user`.
pub(super) const USER: &str = "\
Usage: vmshare user COMMAND [OPTIONS]

  add --email EMAIL [--login NAME] [--role user|teacher|admin] [--password-stdin]
  passwd EMAIL_OR_LOGIN [--password-stdin]
  promote EMAIL_OR_LOGIN [user|teacher|admin]       the role is admin if left out
  list [--json]
  invite [--uses N] [--days D] [--role user|teacher|admin]

A password is asked on the terminal, read from standard input (--password-stdin) or from VMSHARE_PASSWORD.
The settings of `vmshare help serve` say which database it is.
";

/// `vmshare help vm`.
pub(super) const VM: &str = "\
Usage: vmshare vm COMMAND [OPTIONS]

  list [--all] [--json]       those that start, run or stop; with --all also those that have ended
  show VMID [--json]          all that is known of one
  stop VMID...                end them at once, without asking the guest

They read and write the database, and stop signals QEMU itself, so they work beside a running server and without
one. stop needs the right to end the VM's process: run it as root where each VM is a user of its own.
The settings of `vmshare help serve` say which database and which VM_BASE_DIR it is.
";

/// `vmshare help image`.
pub(super) const IMAGE: &str = "\
Usage: vmshare image COMMAND [OPTIONS]

  list [--user EMAIL_OR_LOGIN] [--json]                     the shared library; with --user also that user's own
  add FILE [--name NAME] [--format iso|qcow2|raw]           copy a file into the shared library
  check FILE [--format iso|qcow2|raw]                       what it is, its SHA-256, and whether it can be used
  remove NAME                                               from the shared library, unless a VM or a disk needs it
  known [--json]                                            distributions whose SHA-256 is known here

The shared library is VM_BASE_DIR/images; everybody may start what is in it. Without --format the file's ending says
what it is: .qcow2, .raw or .img, else an ISO. add and remove need the right to write there: run them as the server's
user or as root.
";

/// `vmshare help serve` and `vmshare help check`: the usage and every setting.
pub(super) fn with_settings(command: &str, purpose: &str) -> String {
    let mut text = format!(
        "Usage: vmshare {command} [--config FILE] [--SETTING VALUE]…\n\n{purpose}\n\n\
         Settings come from flags, then the environment, then .env in the working folder, then vmshare.toml (--config,\n\
         VMSHARE_CONFIG, ./vmshare.toml, /etc/vmshare/vmshare.toml). In vmshare.toml the names are in lower case.\n"
    );
    let mut section = None;
    for setting in reference() {
        if section != Some(setting.section) {
            section = Some(setting.section);
            match setting.section {
                "" => text.push_str("\nFlags, and names in the environment:\n\n"),
                table => text.push_str(&format!("\nIn vmshare.toml below [{table}]:\n\n")),
            }
        }
        text.push_str(&entry(setting));
    }
    text
}

fn entry(setting: &Setting) -> String {
    let name = match (setting.flag(), setting.environment_name()) {
        (Some(flag), Some(name)) => format!("{flag} {}, {name}", setting.shape),
        (None, Some(name)) => format!("{name} (never a flag, for other users of the host could read it)"),
        _ => format!("{} = {}", setting.name, setting.shape),
    };
    let default = if setting.default.is_empty() { "unset" } else { setting.default };
    format!("  {name}\n      {} Default: {default}.\n", setting.meaning)
}
