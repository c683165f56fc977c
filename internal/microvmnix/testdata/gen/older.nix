# The guests whose runners of older versions of microvm.nix are fixtures, of options that
# all of these have.
{ lib }:

let
  tap = id: mac: { type = "tap"; inherit id mac; };
  macvtap = { type = "macvtap"; id = "mv-web"; mac = "02:00:00:02:01:01"; macvtap = { link = "eno1"; mode = "bridge"; }; };
  share = proto: tag: source: mountPoint: { inherit proto tag source mountPoint; socket = "older-virtiofs-${tag}.sock"; };
  modules = {
    minimal = { };
    devices = {
      vcpu = 4;
      mem = 1024;
      interfaces = [ (tap "vm-web" "02:00:00:00:00:01") (tap "vm-web-dmz" "02:00:00:00:00:02") ];
      volumes = [
        { image = "data.img"; mountPoint = "/data"; size = 2048; }
        { image = "/var/lib/images/db.img"; mountPoint = "/var/lib/postgresql"; size = 8192; fsType = "xfs"; }
      ];
      preStart = ''
        echo "starting as $(id -un)" >&2
      '';
    };
  };
  more.macvtap = { interfaces = [ macvtap ]; };
  more.virtiofs = { shares = [ (share "virtiofs" "ro-store" "/nix/store" "/nix/.ro-store") (share "virtiofs" "home" "/srv/home" "/home") ]; };
  more.pci = { devices = [ { bus = "pci"; path = "0000:01:00.0"; } ]; };
  for = hypervisor: modules: lib.mapAttrs' (name: microvm: lib.nameValuePair "${hypervisor}-${name}" { microvm = microvm // { inherit hypervisor; }; }) modules;
in
for "cloud-hypervisor" (modules // more)
// for "qemu" (modules // more // { "9p" = { shares = [ (share "9p" "doc" "/usr/share/doc" "/doc") ]; }; })
// for "firecracker" modules
