# A guest's configuration as microvm.nix evaluates it: its own modules, all of them, and
# ./nixos.nix for the rest of NixOS. Fails as NixOS does where an assertion does.
{ microvm, lib, pkgs }:

name: module:

let
  evaluated = lib.evalModules {
    modules = [
      (microvm + "/nixos-modules/microvm")
      ./nixos.nix
      { networking.hostName = lib.mkDefault name; _module.args = { inherit pkgs; }; }
      module
    ];
  };
  failed = map (x: x.message) (lib.filter (x: !x.assertion) evaluated.config.assertions);
in
if failed == [ ] then evaluated else throw "\nFailed assertions:\n${lib.concatStringsSep "\n" failed}"
