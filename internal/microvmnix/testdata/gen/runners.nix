# All the runners and all the hosts' units, and directories of fixtures made of them. Of
# runners, for each configuration:
#
#   bin/, share/   the runner; what it links to is copied, but for share/microvm/system
#   store/         files of the store that its scripts name, and theirs in turn, without
#                  what stands for programs, kernels and disks
#   paths          the store path of each file above, tab separated
#
# Of units, for each host:
#
#   system/        what becomes /etc/systemd/system; links to units are files here
#   store/         their scripts and triggers
#   paths          as above
{ microvm, nixpkgsLib }:

let
  lib = import nixpkgsLib;
  pkgs = import ./pkgs.nix { inherit lib; };
  guest = import ./guest.nix { inherit microvm lib pkgs; };
  seed = import ./seed.nix { inherit lib pkgs; };

  host = import ./host.nix { inherit microvm lib pkgs; };

  hosts = lib.mapAttrs (_: module: (host module).config) (import ./hosts.nix { inherit microvm lib pkgs; });
  guests = lib.mapAttrs (name: module: (guest (hostName name) module).config)
    (import ./configurations.nix { inherit lib pkgs; });
  # The guest of qemu-9p is called 9p.
  hostName = name: lib.foldl' (name: hypervisor: lib.removePrefix "${hypervisor}-" name) name
    (import (microvm + "/lib") { inherit lib; }).hypervisors;

  fixture = name: config: ''
    collect "$out/${name}" ${config.microvm.declaredRunner} ${toString ((seed.unreferenced.${name} or (_: [ ])) config)}
  '';
in
rec {
  inherit lib pkgs guests hosts;
  runners = lib.mapAttrs (_: config: config.microvm.declaredRunner) guests;
  # Those of an older version of microvm.nix.
  olderFixtures = pkgs.runCommand "older-fixtures" { } ''
    . ${./collect.sh}
    ${lib.concatStrings (lib.mapAttrsToList (name: module: fixture name (guest "older" module).config) (import ./older.nix { inherit lib; }))}
  '';
  runnerFixtures = pkgs.runCommand "runner-fixtures" { } ''
    . ${./collect.sh}
    ${lib.concatStrings (lib.mapAttrsToList fixture guests)}
  '';
  unitFixtures = pkgs.runCommand "unit-fixtures" { } ''
    . ${./collect.sh}
    ${lib.concatStrings (lib.mapAttrsToList (name: config: ''
      collect_units "$out/${name}" ${config.systemd.directory}
    '') hosts)}
  '';
}
