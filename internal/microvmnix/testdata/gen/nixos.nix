# Stands for the parts of NixOS that microvm.nix's guest modules read and write: options
# that take anything, and the few values that end up in a runner. Fails as NixOS does where
# an assertion does.
{ config, lib, pkgs, ... }:

let
  anything = options: lib.mkOption {
    default = { };
    type = lib.types.submodule { freeformType = lib.types.lazyAttrsOf lib.types.anything; inherit options; };
  };
  option = type: default: lib.mkOption { inherit type default; };
  failed = map (x: x.message) (lib.filter (x: !x.assertion) config.assertions);
in
{
  options = {
    assertions = option (lib.types.listOf lib.types.unspecified) [ ];
    warnings = option (lib.types.listOf lib.types.str) [ ];
    boot = anything { kernelParams = option (lib.types.listOf lib.types.str) [ ]; };
    networking = anything { hostName = option lib.types.str "nixos"; };
    nix = anything { };
    security = anything { };
    services = anything { };
    system = anything { };
    systemd = anything { };
  } // lib.genAttrs [ "documentation" "environment" "fileSystems" "hardware" "nixpkgs" "users" "virtualisation" ] (_: anything { });

  config = {
    boot = {
      kernelPackages = pkgs.linuxPackages;
      # What NixOS adds to every kernel's command line.
      kernelParams = lib.mkAfter [ "root=fstab" "loglevel=4" "lsm=landlock,yama,bpf" ];
      initrd.systemd.enable = lib.mkDefault false;
    };
    nix = {
      enable = lib.mkDefault true;
      package = pkgs.nix;
      optimise.automatic = lib.mkDefault false;
      settings.auto-optimise-store = lib.mkDefault false;
    };
    security.virtualisation.flushL1DataCache = lib.mkDefault null;
    services.openssh.enable = lib.mkDefault false;
    system = {
      boot.loader = { initrdFile = "initrd"; kernelFile = "bzImage"; };
      nixos.label = lib.mkDefault "26.11.20260810.3b9e7f0";
      switch.enable = lib.mkDefault false;
      build.initialRamdisk = pkgs.runCommand "initrd-linux-6.18.26" { } ''
        mkdir "$out"
        echo 'stands for an initial RAM disk' > "$out/initrd"
      '';
      build.toplevel = if failed != [ ] then throw "\nFailed assertions:\n${lib.concatStringsSep "\n" failed}" else pkgs.runCommand "nixos-system-${config.networking.hostName}-${config.system.nixos.label}" { } ''
        mkdir "$out"
        echo 'stands for the first program' > "$out/init"
        ln -s ${pkgs.linux} "$out/kernel"
        echo -n ${config.system.nixos.label} > "$out/nixos-version"
      '';
    };
  };
}
