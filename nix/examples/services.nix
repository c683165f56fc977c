# A host without microvm.nix: nixosModules.ampoule, and a VM as a file in /etc/ampoule.
{ guest, ... }:
{
  services.ampoule = {
    enable = true;
    vms.web = {
      MicroVM = {
        Kernel = "${guest}/vmlinuz";
        Initrd = "${guest}/initrd";
        Memory = "1G";
        Network = "user";
        PublishPort = [ "127.0.0.1:8080:80" ];
        LoadCredential = [ "API_KEY:/run/secrets/web-api-key" ];
      };
      Install.WantedBy = "multi-user.target";
    };
  };
}
