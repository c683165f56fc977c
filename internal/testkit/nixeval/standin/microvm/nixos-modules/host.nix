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
          before = [
            "microvm@${name}.service"
            "microvm-tap-interfaces@${name}.service"
            "microvm-set-booted@${name}.service"
          ];
          partOf = [ "microvm@${name}.service" ];
          wantedBy = [ "microvms.target" ];
          serviceConfig.Type = "oneshot";
          script = ''
            mkdir -p ${cfg.stateDir}/${name}
            cd ${cfg.stateDir}/${name}
            ln -sTf ${(guest name).microvm.declaredRunner} current
            chown -h microvm:kvm . current
          '';
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
      "microvm-tap-interfaces@" = {
        description = "Interfaces of MicroVM '%i'";
        before = [ "microvm@%i.service" ];
        partOf = [ "microvm@%i.service" ];
        after = [
          "network.target"
          "microvm-set-booted@%i.service"
        ];
        unitConfig.ConditionPathExists = "${cfg.stateDir}/%i/current/bin/tap-up";
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = "${cfg.stateDir}/%i/current/bin/tap-up";
          ExecStop = "${cfg.stateDir}/%i/booted/bin/tap-down";
        };
      };
      "microvm-set-booted@" = {
        description = "What MicroVM '%i' is started with";
        before = [ "microvm@%i.service" ];
        partOf = [ "microvm@%i.service" ];
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          WorkingDirectory = "${cfg.stateDir}/%i";
          User = "microvm";
          Group = "kvm";
          ExecStop = "/bin/rm booted";
        };
        script = ''
          rm -f booted
          ln -s $(readlink current) booted
        '';
      };
      "microvm@" = {
        description = "MicroVM '%i'";
        requires = [
          "microvm-tap-interfaces@%i.service"
          "microvm-set-booted@%i.service"
        ];
        after = [
          "network.target"
          "microvm-tap-interfaces@%i.service"
          "microvm-set-booted@%i.service"
        ];
        unitConfig.ConditionPathExists = "${cfg.stateDir}/%i/current/bin/microvm-run";
        restartIfChanged = false;
        serviceConfig = {
          Type = "simple";
          WorkingDirectory = "${cfg.stateDir}/%i";
          ExecStart = "${cfg.stateDir}/%i/current/bin/microvm-run";
          ExecStop = "${cfg.stateDir}/%i/booted/bin/microvm-shutdown";
          ExecStartPost = [
            "+/bin/sh -c 'if [ -x ${cfg.stateDir}/%i/current/bin/microvm-register ]; then ${cfg.stateDir}/%i/current/bin/microvm-register $MAINPID; fi'"
          ];
          TimeoutSec = cfg.host.startupTimeout;
          Restart = "always";
          RestartSec = "5s";
          User = "microvm";
          Group = "kvm";
          SyslogIdentifier = "microvm@%i";
          LimitNOFILE = 1048576;
          NotifyAccess = "all";
          LimitMEMLOCK = "infinity";
        };
      };
    };
}
