# Stands for microvm.nix's guest module (commit 71beea0): the options that Ampoule's modules
# read, and a runner whose microvm-run is microvm.nix's own whatever binScripts has.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  cfg = config.microvm;
  option = type: default: mkOption { inherit type default; };
  run = pkgs.writeShellScript "microvm-${config.networking.hostName}-microvm-run" ''
    set -eou pipefail
    ${cfg.preStart}
    runtime_args=

    exec -a "microvm@${config.networking.hostName}" ${cfg.hypervisor} ''${runtime_args:-}
  '';
in
{
  _file = ./microvm.nix;
  options.microvm = {
    hypervisor = option types.str "qemu";
    binScripts = option (types.attrsOf types.lines) { };
    preStart = option types.lines "";
    extraArgsScript = option (types.nullOr types.str) null;
    credentialFiles = option (types.attrsOf types.path) { };
    socket = option (types.nullOr types.str) "vm.sock";
    shares = option (types.listOf types.unspecified) [ ];
    cloud-hypervisor.platformOEMStrings = option (types.listOf types.str) [ ];
    declaredRunner = mkOption { type = types.package; };
  };
  config.microvm.declaredRunner =
    pkgs.runCommand "microvm-${cfg.hypervisor}-${config.networking.hostName}" { } ''
      mkdir -p $out/bin
      ln -s ${run} $out/bin/microvm-run
    ''
    // {
      registerWithMachined = false;
      supportsNotifySocket = cfg.hypervisor == "cloud-hypervisor";
    };
}
