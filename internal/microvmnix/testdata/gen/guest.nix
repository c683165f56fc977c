# A guest's configuration as microvm.nix evaluates it: its own modules, all of them, and
# ./nixos.nix for the rest of NixOS.
{ microvm, lib, pkgs }:

name: module: import ./nixpkgs/nixos/lib/eval-config.nix {
  inherit pkgs;
  modules = [ (microvm + "/nixos-modules/microvm") { networking.hostName = lib.mkDefault name; } module ];
}
