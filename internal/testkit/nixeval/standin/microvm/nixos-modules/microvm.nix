# Stands for microvm.nix's guest module (commit 71beea0): the options that Ampoule's modules
# read, and a runner for QEMU whose microvm-run is microvm.nix's own whatever binScripts has.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.microvm;
  name = config.networking.hostName;
  option = type: default: mkOption { inherit type default; };
  scripts = cfg.binScripts // {
    microvm-run = ''
      set -eou pipefail
      ${cfg.preStart}
      runtime_args=${lib.optionalString (cfg.extraArgsScript != null) "$(${cfg.extraArgsScript})"}

      exec -a "microvm@${name}" ${pkgs.qemu_kvm}/bin/qemu-system-x86_64 -name ${name} -M '${cfg.qemu.machine},accel=kvm:tcg,mem-merge=on' -m ${toString cfg.mem}M -smp 1 -nodefaults -no-user-config -no-reboot -kernel ${cfg.kernel} -initrd ${cfg.initrdPath} -chardev 'stdio,id=stdio,signal=off' -device virtio-rng-pci ${
        lib.concatMapStrings (c: "-fw_cfg name=opt/io.systemd.credentials/${c},file=${toString cfg.credentialFiles.${c}} ") (
          builtins.attrNames cfg.credentialFiles
        )
      }-serial chardev:stdio -enable-kvm -cpu host,+x2apic,-sgx -append '${toString cfg.kernelParams}' -nographic -sandbox on -qmp unix:${name}.sock,server,nowait ${
        lib.concatMapStrings (i: ''
          -netdev 'tap,id=${i.id},ifname=${i.id},script=no,downscript=no' -device 'virtio-net-pci,netdev=${i.id},mac=${i.mac},romfile=' '') cfg.interfaces
      }''${runtime_args:-}
    '';
    microvm-shutdown = "exit 0";
  };
in
{
  _file = ./microvm.nix;
  options.microvm = {
    hypervisor = option types.str "qemu";
    qemu.machine = option types.str "q35";
    mem = option types.int 512;
    kernel = option types.str "/boot/vmlinuz";
    initrdPath = option types.str "/boot/initrd";
    kernelParams = option (types.listOf types.str) [ "console=ttyS0" ];
    volumes = option (types.listOf types.unspecified) [ ];
    interfaces = option (types.listOf types.unspecified) [ ];
    binScripts = option (types.attrsOf types.lines) { };
    preStart = option types.lines "";
    extraArgsScript = option (types.nullOr types.str) null;
    credentialFiles = option (types.attrsOf types.path) { };
    socket = option (types.nullOr types.str) "vm.sock";
    cloud-hypervisor.platformOEMStrings = option (types.listOf types.str) [ ];
    declaredRunner = mkOption { type = types.package; };
  };
  config.microvm.declaredRunner =
    pkgs.runCommand "microvm-${cfg.hypervisor}-${name}" { } ''
      mkdir -p $out/bin $out/share/microvm
      ${lib.concatMapStrings (
        script: "ln -s ${pkgs.writeShellScript "microvm-${name}-${script}" scripts.${script}} $out/bin/${script}\n"
      ) (builtins.attrNames scripts)}
      echo vnet_hdr >$out/share/microvm/tap-flags
      ${lib.concatMapStrings (i: "echo ${i.id} >>$out/share/microvm/tap-interfaces\n") cfg.interfaces}
      echo ${cfg.hypervisor} >$out/share/microvm/hypervisor
    ''
    // {
      registerWithMachined = false;
      supportsNotifySocket = cfg.hypervisor == "cloud-hypervisor";
    };
  config.microvm.binScripts = lib.mkIf (cfg.interfaces != [ ]) {
    tap-up = lib.concatMapStrings (i: ''
      ip tuntap add name '${i.id}' mode tap user 'microvm' vnet_hdr
      ip link set '${i.id}' up
    '') cfg.interfaces;
    tap-down = lib.concatMapStrings (i: ''
      ip link delete '${i.id}'
    '') cfg.interfaces;
  };
}
