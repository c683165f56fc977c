# nixosModules.ampoule: Ampoule on a NixOS host without microvm.nix. Each of
# services.ampoule.vms is a file in /etc/ampoule, and so a service microvm@NAME.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (builtins) attrNames match;
  inherit (lib)
    escapeShellArg
    literalExpression
    mapAttrs'
    mkDefault
    mkEnableOption
    mkIf
    mkOption
    nameValuePair
    types
    ;
  text = import ./lib.nix { inherit lib; };
  cfg = config.services.ampoule;

  section = types.attrsOf types.unspecified;

  vm = types.submodule {
    freeformType = types.attrsOf section;
    options.MicroVM = mkOption {
      type = section;
      default = { };
      description = "The keys of [MicroVM], see ampoule.microvm(5).";
    };
  };

  # A mistake ends the build, with the file and the line.
  file =
    name: sections:
    pkgs.runCommand "ampoule-${name}"
      {
        text = text.render sections;
        passAsFile = [ "text" ];
      }
      ''
        mkdir "$out"
        cd "$out"
        cp "$textPath" ${escapeShellArg name}.microvm
        ${cfg.package}/bin/ampoule plan ./${escapeShellArg name}.microvm >/dev/null
      '';

  names = attrNames cfg.vms;
  wrong = lib.filter (
    name: match "[A-Za-z0-9][A-Za-z0-9_.-]*" name == null || builtins.stringLength name > 48
  ) names;
  sources = lib.concatMap (
    name:
    map (line: { inherit name line; }) (
      lib.filter (line: lib.hasInfix ":${builtins.storeDir}" (toString line)) (
        lib.toList (cfg.vms.${name}.MicroVM.LoadCredential or [ ])
      )
    )
  ) names;
in
{
  _file = ./service.nix;

  options.services.ampoule = {
    enable = mkEnableOption "Ampoule, microVMs that are systemd's, whose secrets arrive at boot";
    package = mkOption {
      type = types.package;
      default = (pkgs.ampoule or (pkgs.callPackage ./package.nix { })).override {
        runtimeInputs = [
          pkgs.qemu_kvm
          pkgs.virtiofsd
          pkgs.e2fsprogs
        ];
      };
      defaultText = literalExpression ''
        pkgs.ampoule.override {
          runtimeInputs = [ pkgs.qemu_kvm pkgs.virtiofsd pkgs.e2fsprogs ];
        }
      '';
      description = ''
        The package of Ampoule. Its services find hypervisors, and what makes file systems, among
        its runtimeInputs.
      '';
    };
    vms = mkOption {
      type = types.attrsOf vm;
      default = { };
      example = literalExpression ''
        {
          web = {
            MicroVM = {
              Kernel = "''${guest}/vmlinuz";
              Initrd = "''${guest}/initrd";
              Memory = "1G";
              LoadCredential = [ "API_KEY:''${config.sops.secrets.api-key.path}" ];
            };
            Install.WantedBy = "multi-user.target";
          };
        }
      '';
      description = ''
        VMs by name. Each has the sections of a .microvm file, see ampoule.microvm(5); a list
        is one line for each element, true and false are yes and no.
      '';
    };
    applyOnSwitch = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Whether a switch of the system starts, restarts and stops VMs whose files have
        changed, as ampoule apply does. A VM with RestartIfChanged=no is left alone.
      '';
    };
  };

  config = mkIf cfg.enable {
    assertions =
      map (name: {
        assertion = false;
        message = "${
          text.at (text.positions [ name ] options.services.ampoule.vms.definitionsWithLocations)
        }services.ampoule.vms.\"${name}\": a name has at most 48 letters, digits, _ . and -, and begins with a letter or digit";
      }) wrong
      ++ map (source: {
        assertion = false;
        message = "${
          text.at (
            text.positions [
              source.name
              "MicroVM"
              "LoadCredential"
            ] options.services.ampoule.vms.definitionsWithLocations
          )
        }services.ampoule.vms.${source.name}.MicroVM.LoadCredential = \"${source.line}\": this lies in the Nix store, which every user of the host, and every machine that it is copied to, can read; name the path at which sops-nix, agenix or a file of root's has it on the running host";
      }) sources;

    environment.systemPackages = [ cfg.package ];
    environment.etc = mapAttrs' (
      name: sections:
      nameValuePair "ampoule/${name}.microvm" { source = "${file name sections}/${name}.microvm"; }
    ) (lib.filterAttrs (name: _: !(lib.elem name wrong)) cfg.vms);

    systemd.generators.ampoule-generator = "${cfg.package}/lib/systemd/system-generators/ampoule-generator";

    # A switch reloads systemd, with which the generator makes the units anew, and then
    # reloads this. At boot there is nothing to do.
    systemd.services.ampoule-apply = mkIf cfg.applyOnSwitch {
      description = "Makes VMs what they are declared to be when the system is switched";
      wantedBy = [ "multi-user.target" ];
      reloadTriggers = [
        (builtins.toJSON (lib.mapAttrs (_: text.render) cfg.vms))
        "${cfg.package}"
      ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = mkDefault true;
        ExecStart = "${pkgs.coreutils}/bin/true";
        ExecReload = "${cfg.package}/bin/ampoule apply";
      };
    };
  };
}
