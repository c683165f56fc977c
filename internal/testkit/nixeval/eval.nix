# eval.nix MODULE: what a host with MODULE comes to. By default with stand-ins of nixpkgs'
# lib, NixOS and microvm.nix; with lib, packages, microvm and guestModules those of the
# caller.
{
  module,
  lib ? import ./standin/lib.nix,
  packages ? import ./standin/pkgs.nix { inherit lib; },
  # A directory in which Ampoule is installed.
  installed ? null,
  microvm ? ./standin/microvm/nixos-modules/host.nix,
  guestModules ? [ ./standin/nixos.nix ],
}:
let
  ampoule =
    packages.runCommand "ampoule" { } (
      if installed == null then "mkdir -p $out/bin" else "cp -r ${installed} $out"
    )
    // {
      override = _: ampoule;
    };
  pkgs = packages // {
    inherit ampoule guestModules;
    path = ./standin/nixpkgs;
  };
  host = lib.evalModules {
    modules = [
      ./standin/nixos.nix
      module
      { _module.args = { inherit pkgs microvm; }; }
    ];
    specialArgs = {
      ampouleModules = (import ../../../flake.nix).outputs { nixpkgs = { inherit lib; }; };
      microvmHost = microvm;
      examples = ../../../nix/examples;
    };
  };
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) host.config.assertions);
in
{
  inherit failed;
  inherit (host.config) warnings;
  units = if failed == [ ] then host.config.systemd.units else { };
  # The files of /etc/systemd/system.
  files = lib.mapAttrs' (
    name: text:
    lib.nameValuePair (
      if host.config.systemd.services.${name}.overrideStrategy == "asDropin" then
        "${name}.service.d/overrides.conf"
      else
        "${name}.service"
    ) text
  ) host.config.systemd.units;
  inherit host pkgs;
}
