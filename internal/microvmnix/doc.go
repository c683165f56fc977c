// Package microvmnix reads what microvm.nix (github.com/microvm-nix/microvm.nix)
// leaves on a host: the runner package of a VM, with the shell script that
// starts its hypervisor, the notes in share/microvm, and the command lines and
// configurations of the hypervisors.
//
// The formats are those of commit 71beea0 (lib/runner.nix, lib/runners/*.nix,
// lib/volumes.nix, lib/macvtap.nix, nixos-modules/microvm/virtiofsd). Scripts of
// versions back to 2023 are understood too: "-e" in the first line instead of a
// "set", no runtime_args, every word quoted, volumes made by fallocate.
//
// Nothing here decides what is good about a runner, opens files other than
// through the fs.FS that it is given, or runs anything of what it reads. What is
// not understood is a problem with its line, and the rest is there all the same.
package microvmnix
