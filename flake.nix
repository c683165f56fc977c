{
  description = "Declarative microVMs whose secrets arrive at boot and are found nowhere else";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { nixpkgs, ... }:
    let
      eachSystem = nixpkgs.lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];
    in
    {
      packages = eachSystem (system: rec {
        ampoule = nixpkgs.legacyPackages.${system}.callPackage ./nix/package.nix { };
        default = ampoule;
      });

      overlays.default = import ./nix/overlay.nix;

      nixosModules = {
        # Beside microvm.nixosModules.host: microvm.vms.NAME.ampoule.
        host = ./nix/host.nix;
        # Beside microvm.nixosModules.microvm, in a guest.
        microvm = ./nix/guest.nix;
        # services.ampoule, for hosts without microvm.nix.
        ampoule = ./nix/service.nix;
        default = ./nix/service.nix;
      };
    };
}
