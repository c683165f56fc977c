# A runner on the host's level: a program of yours takes the place of microvm.nix's
# microvm-run. It is the service's ExecStart=, not a script of the guest's. This one has
# Ampoule take the installed runner as it is when the VM starts, so that the plan follows
# `current`; what Ampoule cannot carry over ends the start, with the script's line.
{ pkgs, lib, ... }:
let
  run = pkgs.writeShellScript "test-vm-run" ''
    set -eu
    file=$RUNTIME_DIRECTORY/test-vm.microvm
    ${pkgs.ampoule}/bin/ampoule adopt current --external --name test-vm \
      --state-dir "$PWD" --credential API_KEY:/run/secrets/vars/test-vm-secrets/api-key -o "$file"
    exec ${pkgs.ampoule}/bin/ampoule run "$file"
  '';
in
{
  microvm.vms.test-vm.config.microvm.hypervisor = "cloud-hypervisor";
  systemd.services."microvm@test-vm".serviceConfig = {
    LoadCredential = [ "API_KEY:/run/secrets/vars/test-vm-secrets/api-key" ];
    Type = lib.mkForce "notify";
    ExecStart = [
      ""
      run
    ];
    # Ampoule presses the power button when systemd sends it SIGTERM.
    ExecStop = [ "" ];
    KillMode = "mixed";
    Environment = "STATE_DIRECTORY=/var/lib/microvms/test-vm";
    RuntimeDirectory = "ampoule/vm/test-vm";
    RuntimeDirectoryMode = "0700";
  };
}
