# Ampoule's way: name the credential on the host. Imported beside it: microvm.nix's
# nixosModules.host, and Ampoule's.
{ config, ... }:
{
  microvm.vms.test-vm = {
    # Stays as it is.
    config =
      { ... }:
      {
        microvm.hypervisor = "cloud-hypervisor";
        # A service of the guest's takes the credential by its name.
        systemd.services.app = {
          wantedBy = [ "multi-user.target" ];
          serviceConfig.LoadCredential = [ "API_KEY" ];
          script = "exec /srv/app --key-file \"$CREDENTIALS_DIRECTORY/API_KEY\"";
        };
      };

    ampoule.credentials = {
      # A path of the running host: from sops-nix, agenix, clan's vars, or any file of root's.
      API_KEY.source = config.sops.secrets."test-vm/api-key".path;
      # A setting that is no secret.
      ENVIRONMENT.value = "production";
    };
  };
}
