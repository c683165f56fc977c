# Stands for microvm.nix's host module (commit 71beea0): its options, and the part of its
# units that Ampoule's module changes.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  cfg = config.microvm;
  guest =
    name:
    let
      vm = cfg.vms.${name};
    in
    if vm.flake != null then
      vm.flake.nixosConfigurations.${name}.config
    else if vm.evaluatedConfig != null then
      vm.evaluatedConfig.config
    else
      vm.config.config;
in
{
  _file = ./host.nix;
  options.microvm = {
    stateDir = option types.path "/var/lib/microvms";
    host.startupTimeout = option types.int 150;
    vms = option (types.attrsOf (
      types.submodule (
        { config, name, ... }:
        {
          options = {
            evaluatedConfig = option (types.nullOr types.unspecified) null;
            flake = option (types.nullOr types.unspecified) null;
            updateFlake = option (types.nullOr types.str) null;
            restartIfChanged = option types.bool (config.config != null);
            config = option (types.nullOr (
              lib.mkOptionType {
                name = "Toplevel NixOS config";
                check = _: true;
                merge =
                  _: definitions:
                  import (pkgs.path + "/nixos/lib/eval-config.nix") {
                    inherit pkgs;
                    modules = [
                      { networking.hostName = lib.mkDefault name; }
                      ./microvm.nix
                    ]
                    ++ map (d: d.value) definitions;
                  };
              }
            )) null;
          };
        }
      )
    )) { };
  };
  config.systemd.services =
    lib.listToAttrs (
      lib.concatMap (name: [
        (lib.nameValuePair "install-microvm-${name}" {
          script = "ln -sTf ${(guest name).microvm.declaredRunner} current";
        })
        (lib.nameValuePair "microvm@${name}" {
          overrideStrategy = "asDropin";
          path = lib.mkForce [ ];
          serviceConfig.X-RestartIfChanged = [
            ""
            cfg.vms.${name}.restartIfChanged
          ];
          serviceConfig.Type =
            if (guest name).microvm.declaredRunner.supportsNotifySocket then "notify" else "simple";
        })
      ]) (builtins.attrNames cfg.vms)
    )
    // {
      "microvm@" = {
        description = "MicroVM '%i'";
        serviceConfig = {
          Type = "simple";
          ExecStart = "${cfg.stateDir}/%i/current/bin/microvm-run";
          ExecStop = "${cfg.stateDir}/%i/booted/bin/microvm-shutdown";
        };
      };
    };
}
