# A unit of your own, without microvm.vms: the service that Ampoule makes of a file, with
# its plan and its sandbox, as a unit of the system's. A mistake in the file ends the build.
{ pkgs, guest, ... }:
let
  file = pkgs.writeText "test-vm.microvm" ''
    [MicroVM]
    Hypervisor=cloud-hypervisor
    HypervisorPath=${pkgs.cloud-hypervisor}/bin/cloud-hypervisor
    Kernel=${guest}/vmlinux
    Initrd=${guest}/initrd
    Memory=1G
    LoadCredential=API_KEY:/run/secrets/vars/test-vm-secrets/api-key
  '';
  unit = pkgs.runCommand "test-vm-unit" { } ''
    mkdir -p "$out/lib/systemd/system"
    cp ${file} test-vm.microvm
    ${pkgs.ampoule}/bin/ampoule plan ./test-vm.microvm --unit >"$out/lib/systemd/system/test-vm.service"
  '';
in
{
  systemd.packages = [ unit ];
  systemd.services.test-vm.wantedBy = [ "multi-user.target" ];
}
