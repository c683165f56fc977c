# What microvm.nix's host module calls for a guest of `config`: NixOS of ../../../nixos.nix.
{ modules, prefix ? [ ], extraModules ? [ ], specialArgs ? { }, pkgs, system ? null }:

pkgs.lib.evalModules {
  inherit prefix specialArgs;
  modules = modules ++ extraModules ++ [ ../../../nixos.nix { _module.args = { inherit pkgs; }; } ];
}
