# What does not work, and looks as if it did: the runner's script is replaced within the
# guest. microvm.nix puts its own microvm-run over it without a word, the service loads the
# credential, and the guest gets none. With nixosModules.host of Ampoule this is a warning;
# with microvm.ampoule.strict, or once the VM has microvm.vms.test-vm.ampoule, an error
# that names the line. What to write instead is in credentials.nix.
{
  microvm.vms.test-vm = {
    config =
      { lib, pkgs, ... }:
      {
        microvm = {
          hypervisor = "cloud-hypervisor";
          binScripts.microvm-run = lib.mkForce ''
            API_KEY=$(cat "$CREDENTIALS_DIRECTORY/API_KEY")
            exec cloud-hypervisor --platform "oem_strings=[io.systemd.credential:API_KEY=$API_KEY]"
          '';
        };
      };
  };
  systemd.services."microvm@test-vm".serviceConfig.LoadCredential = [
    "API_KEY:/run/secrets/vars/test-vm-secrets/api-key"
  ];
}
