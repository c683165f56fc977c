# A host's configuration as microvm.nix evaluates it: nixos-modules/host, the units of
# ./systemd.nix, and options that take anything for the rest of NixOS.
{ microvm, lib, pkgs }:

module: lib.evalModules {
  modules = [
    (microvm + "/nixos-modules/host")
    ./systemd.nix
    {
      options = {
        assertions = lib.mkOption { type = lib.types.listOf lib.types.unspecified; default = [ ]; };
        warnings = lib.mkOption { type = lib.types.listOf lib.types.str; default = [ ]; };
      } // lib.genAttrs [ "boot" "environment" "hardware" "networking" "security" "services" "sops" "system" "users" "virtualisation" ]
        (_: lib.mkOption { type = lib.types.lazyAttrsOf lib.types.anything; default = { }; });
      config = {
        _module.args = { inherit pkgs; };
        virtualisation.libvirtd.enable = lib.mkDefault false;
      };
    }
    module
  ];
}
