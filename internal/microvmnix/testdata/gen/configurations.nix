# The guests whose runners are the fixtures: HYPERVISOR-CONFIGURATION = a NixOS module.
# What several hypervisors have in common is written once and given to each.
{ lib, pkgs }:

let
  for = hypervisors: modules: lib.listToAttrs (lib.concatMap (hypervisor: lib.mapAttrsToList (name: microvm: {
    name = "${hypervisor}-${name}";
    value = { config, ... }: {
      microvm = lib.mkMerge [
        { inherit hypervisor; }
        (if lib.isFunction microvm then microvm config else microvm)
      ];
    };
  }) modules) hypervisors);

  tap = { type = "tap"; id = "vm-web"; mac = "02:00:00:00:00:01"; };
  tap2 = { type = "tap"; id = "vm-web-dmz"; mac = "02:00:00:00:00:02"; };
  macvtap = { type = "macvtap"; id = "mv-web"; mac = "02:00:00:02:01:01"; macvtap = { link = "eno1"; mode = "bridge"; }; };
  macvtap2 = { type = "macvtap"; id = "mv-dmz"; mac = "02:00:00:02:01:02"; macvtap = { link = "enp3s0.20"; mode = "private"; }; };
  user = { type = "user"; id = "qemu"; mac = "02:00:00:03:01:01"; };
  hostStore = proto: { inherit proto; tag = "ro-store"; source = "/nix/store"; mountPoint = "/nix/.ro-store"; };

  data = { image = "data.img"; mountPoint = "/data"; size = 2048; };
  volumes = {
    volumes = [
      data
      { image = "/var/lib/images/db.img"; mountPoint = "/var/lib/postgresql"; size = 8192; fsType = "xfs"; label = "db"; serial = "db-0001"; direct = true; mkfsExtraArgs = [ "-m" "reflink=0,crc=1" ]; }
      { image = "golden/models v2.img"; mountPoint = "/models"; autoCreate = false; size = 0; readOnly = true; }
      { image = "efi.img"; mountPoint = null; size = 64; fsType = "vfat"; label = "EFI"; }
    ];
  };

  preStart = ''
    # what the operator wants to happen first
    mkdir -p "$PWD/scratch"
    echo "starting as $(id -un)" >&2
  '';
  extraArgs = name: script: { extraArgsScript = "${pkgs.writeShellScript "${name}-extra-args" script}"; };

  # In all the hypervisors.
  every = {
    minimal = { };
    tap = { interfaces = [ tap ]; };
    volume = { volumes = [ data ]; };
    vsock = { vsock.cid = 42; };
  };
  # In those that the project imports runners of.
  common = {
    inherit volumes;
    plain-name = { prettyProcnames = false; };
    no-socket = { socket = null; };
    tap-multiqueue = { vcpu = 4; mem = 1024; interfaces = [ tap tap2 ]; };
    macvtap = { interfaces = [ macvtap ]; };
    macvtap-multiqueue = { vcpu = 2; interfaces = [ macvtap tap macvtap2 ]; };
    virtiofs = { shares = [ (hostStore "virtiofs") { proto = "virtiofs"; tag = "home"; source = "/srv/home"; mountPoint = "/home"; } ]; };
    virtiofs-options = {
      shares = [
        { proto = "virtiofs"; tag = "music"; source = "/srv/Music and more"; mountPoint = "/music"; readOnly = true; cache = "always"; socket = "/run/music.sock"; }
        { proto = "virtiofs"; tag = "mail"; source = "mail"; mountPoint = "/mail"; posixAcl = false; cache = "never"; extraArgs = [ "--translate-uid" "map:0:100000:65536" ]; }
      ];
      virtiofsd = { group = null; inodeFileHandles = null; threadPoolSize = 4; extraArgs = [ "--log-level" "debug" ]; };
    };
    # As test trees of hosts have their VMs.
    host-store = { vcpu = 2; mem = 1024; interfaces = [ tap ]; shares = [ (hostStore "virtiofs") ]; };
    pci = { devices = [ { bus = "pci"; path = "0000:01:00.0"; } { bus = "pci"; path = "0000:01:00.1"; } ]; };
    balloon = { balloon = true; };
    balloon-kept = { balloon = true; deflateOnOOM = false; };
    pre-start = { inherit preStart; };
    machined = { registerWithMachined = true; machineId = "a67472e5-570e-5c8a-b18c-ae3c77701050"; interfaces = [ tap ]; vsock.cid = 7; };
    words = {
      kernelParams = [ "quiet" "systemd.setenv=GREETING=it's" "dyndbg=\"file drivers/usb/* +p\"" ];
      volumes = [ { image = "it's \"odd\" $HOME.img"; mountPoint = null; autoCreate = false; size = 0; } ];
    };
  };

  seed = import ./seed.nix { inherit lib pkgs; };
in
for [ "cloud-hypervisor" "qemu" ] (every // common)
// for [ "cloud-hypervisor" ] {
  host-store-vsock = common.host-store // { vsock.cid = 3; };
  volume-formats = {
    volumes = [
      { image = "root.qcow2"; imageType = "qcow2"; mountPoint = "/"; autoCreate = false; size = 0; }
      (data // { readOnly = true; direct = true; serial = "DATA"; })
    ];
    vcpu = 2;
  };
  vsock-extra-args = { cloud-hypervisor.extraArgs = [ "--vsock" "cid=9,socket=web.vsock" ]; };
  balloon-initial = { balloon = true; initialBalloonMem = 256; mem = 1024; };
  hugepages = { hugepageMem = true; mem = 2048; };
  hotplug = { hotplugMem = 4096; hotpluggedMem = 512; mem = 1024; };
  extra-args = {
    vcpu = 2;
    cloud-hypervisor.extraArgs = [ "--console" "tty" "--serial" "null" "--platform" "num_pci_segments=2" "--cpus" "max=8,topology=2:2:2:1" "--rng" "src=/dev/urandom" "--pvpanic" ];
  };
  extra-args-script = extraArgs "extra-args-script" ''
    echo "--disk path=$PWD/more.img --event-monitor path=/tmp/events"
  '';
  graphics = { graphics.enable = true; };
  oem-strings = { cloud-hypervisor.platformOEMStrings = [ "io.systemd.credential:API_KEY=sk-live-4f9a1c" "vendor=acme" ]; };
  oem-strings-vsock = { vsock.cid = 11; cloud-hypervisor.platformOEMStrings = [ "io.systemd.credential.binary:TOKEN=c2VjcmV0" ]; };
  everything = common.virtiofs // volumes // {
    vcpu = 4;
    mem = 4096;
    balloon = true;
    hugepageMem = true;
    interfaces = [ tap macvtap ];
    devices = common.pci.devices;
    vsock.cid = 1234;
    inherit preStart;
    machineId = "00000000-0000-4000-8000-000000000001";
    cloud-hypervisor.platformOEMStrings = [ "rack=7" ];
    cloud-hypervisor.extraArgs = [ "--platform" "num_pci_segments=4" "--landlock" ];
    extraArgsScript = "/etc/ampoule/more-arguments";
  };
}
// for [ "qemu" ] {
  q35 = { qemu.machine = "q35"; };
  virtiofs-q35 = common.virtiofs // { qemu.machine = "q35"; vcpu = 2; };
  bridge = { interfaces = [ { type = "bridge"; id = "br-web"; bridge = "virbr0"; mac = "02:00:00:04:01:01"; } ]; };
  user-network = {
    interfaces = [ user ];
    forwardPorts = [
      { host.port = 2222; guest.port = 22; }
      { from = "host"; proto = "udp"; host.address = "127.0.0.1"; host.port = 5353; guest.address = "10.0.2.15"; guest.port = 53; }
      { from = "guest"; guest.address = "10.0.2.10"; guest.port = 80; host.address = "127.0.0.1"; host.port = 8080; }
    ];
  };
  tap-vhost = { interfaces = [ (tap // { tap.vhost = true; }) ]; vcpu = 2; qemu.machine = "q35"; };
  "9p" = { shares = [ (hostStore "9p") { tag = "home"; source = "/srv/home"; mountPoint = "/home"; securityModel = "mapped"; } { tag = "doc"; source = "/usr/share/doc"; mountPoint = "/doc"; readOnly = true; } ]; };
  shares = { shares = [ { tag = "doc"; source = "/usr/share/doc"; mountPoint = "/doc"; } { proto = "virtiofs"; tag = "home"; source = "/srv/home"; mountPoint = "/home"; } ]; };
  pci-options = { devices = [ { bus = "pci"; path = "0000:00:02.0"; qemu = { id = "igpu"; bus = "port0"; deviceExtraArgs = "x-igd-opregion=on"; }; } ]; qemu.machine = "q35"; qemu.pcieRootPorts = [ { id = "port0"; bus = "pcie.0"; chassis = 1; slot = "2"; } ]; };
  usb = { devices = [ { bus = "usb"; path = "vendorid=0xabcd,productid=0x0123"; } ]; };
  hotplug = { qemu.machine = "q35"; hotplugMem = 4096; hotpluggedMem = 512; mem = 1024; };
  extra-args = { qemu.extraArgs = [ "-device" "ramfb" "-object" "rng-random,id=r0,filename=/dev/urandom" "-append" "two=words more" ]; };
  extra-args-script = extraArgs "extra-args-script" ''
    echo "-device virtio-net-device,netdev=late -netdev user,id=late"
  '';
  graphics = { graphics.enable = true; };
  graphics-headless = { graphics = { enable = true; backend = "headless"; vulkan = "venus"; }; };
  credential-files = { credentialFiles = { API_KEY = "/run/secrets/test-vm/api-key"; "db.password" = "/run/secrets/test-vm/db"; }; };
  machine-id = { machineId = "a67472e5-570e-5c8a-b18c-ae3c77701050"; };
  no-machine-id = { machineId = null; };
  emulated = { cpu = "qemu64,+popcnt"; };
  machine-options = { qemu.machine = "q35"; qemu.machineOpts = { accel = "kvm"; smm = "off"; }; qemu.serialConsole = false; };
  user = { user = "nobody"; };
  hugepages = { hugepageMem = true; };
  everything = common.virtiofs // volumes // {
    vcpu = 4;
    mem = 4096;
    balloon = true;
    qemu.machine = "q35";
    interfaces = [ tap macvtap user ];
    forwardPorts = [ { host.port = 2222; guest.port = 22; } ];
    devices = common.pci.devices ++ [ { bus = "usb"; path = "hostbus=1,hostport=2"; } ];
    vsock.cid = 1234;
    inherit preStart;
    credentialFiles.TOKEN = "/run/secrets/token";
    qemu.extraArgs = [ "-device" "virtio-tablet-pci" ];
    extraArgsScript = "/etc/ampoule/more-arguments";
  };
}
// for [ "firecracker" ] (every // {
  inherit volumes;
  pre-start = { inherit preStart; };
  tap-multiqueue = { vcpu = 4; mem = 1024; interfaces = [ tap tap2 ]; };
  extra-args = { firecracker.extraArgs = [ "--level" "debug" "--no-seccomp" ]; firecracker.driveIoEngine = "Sync"; };
  extra-args-script = extraArgs "extra-args-script" "echo --boot-timer";
  extra-config = {
    firecracker.extraConfig = {
      boot-source.boot_args = "console=ttyS0 init=/other";
      machine-config.huge_pages = "2M";
      balloon = { amount_mib = 128; deflate_on_oom = true; };
      metrics = null;
    };
  };
  cpu-template = { firecracker.cpu = { kvm_capabilities = [ "!171" ]; cpuid_modifiers = [ ]; }; };
  hugepages = { hugepageMem = true; };
})
// for [ "crosvm" "kvmtool" "stratovirt" "alioth" ] every
// for [ "crosvm" ] {
  everything = common.virtiofs // volumes // { vcpu = 2; balloon = true; hugepageMem = true; interfaces = [ tap macvtap ]; devices = common.pci.devices; vsock.cid = 8; inherit preStart; crosvm.extraArgs = [ "--disable-sandbox" ]; crosvm.pivotRoot = "/var/empty"; };
}
// for [ "kvmtool" ] {
  everything = { vcpu = 2; balloon = true; hugepageMem = true; interfaces = [ user tap macvtap ]; shares = [ { tag = "home"; source = "/srv/home"; mountPoint = "/home"; } ]; volumes = volumes.volumes; vsock.cid = 8; inherit preStart; };
}
// for [ "stratovirt" ] {
  inherit (common) host-store;
  everything = common.virtiofs // volumes // { vcpu = 2; user = "nobody"; hugepageMem = true; interfaces = [ tap macvtap ]; vsock.cid = 8; inherit preStart; };
}
// for [ "alioth" ] {
  everything = common.virtiofs // volumes // { vcpu = 2; hugepageMem = true; interfaces = [ tap ]; vsock.cid = 8; inherit preStart; };
}
// seed.guests
