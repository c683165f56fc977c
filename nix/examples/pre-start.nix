# A hook, run by root before the start, makes the secret: here it is decrypted for the time
# in which the VM runs. The credential's source need not be there until then.
{ pkgs, ... }:
let
  unlock = pkgs.writeShellScript "unlock-test-vm" ''
    set -eu
    umask 077
    mkdir -p /run/test-vm-secrets
    ${pkgs.systemd}/bin/systemd-creds decrypt --name=api-key \
      /etc/test-vm/api-key.cred /run/test-vm-secrets/api-key
  '';
in
{
  microvm.vms.test-vm = {
    config.microvm.hypervisor = "cloud-hypervisor";
    ampoule.credentials.API_KEY.source = "/run/test-vm-secrets/api-key";
  };
  systemd.services."microvm@test-vm".serviceConfig = {
    ExecStartPre = [ "+${unlock}" ];
    ExecStopPost = [ "+${pkgs.coreutils}/bin/rm -rf /run/test-vm-secrets" ];
  };
}
