# NixOS's units: the options of systemd.services and systemd.targets that microvm.nix's host
# module uses, and the directory that becomes /etc/systemd/system. The texts, the links
# and the names in the store are those of nixos/lib/systemd-lib.nix and
# systemd-unit-options.nix (NixOS/nixpkgs at 01363563), written anew: of the units that
# systemd brings, none is there.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkOption types;
  option = type: default: mkOption { inherit type default; };
  names = option (types.listOf types.str) [ ];

  # A key of a unit: several lines, or one value that all agree on.
  value = lib.mkOptionType {
    name = "systemd option";
    merge = location: definitions:
      let all = lib.filterOverrides definitions; in
      if lib.isList (lib.head all).value
      then lib.concatMap (d: if lib.isList d.value then d.value else throw "${lib.showOption location} is a list and a value") all
      else lib.mergeEqualOption location all;
  };

  # [Unit]'s keys, each with the option that gives it.
  keys = {
    Requires = "requires"; Wants = "wants"; Upholds = "upholds"; After = "after"; Before = "before"; BindsTo = "bindsTo";
    PartOf = "partOf"; Conflicts = "conflicts"; Requisite = "requisite"; OnFailure = "onFailure"; OnSuccess = "onSuccess";
    Documentation = "documentation";
  };

  unit = { name, config, ... }: {
    options = lib.mapAttrs' (_: option: lib.nameValuePair option names) keys // {
      enable = option types.bool true;
      description = option types.str "";
      wantedBy = names;
      requiredBy = names;
      aliases = names;
      overrideStrategy = option (types.enum [ "asDropinIfExists" "asDropin" ]) "asDropinIfExists";
      restartTriggers = option (types.listOf types.unspecified) [ ];
      unitConfig = option (types.attrsOf value) { };
    };
    config.unitConfig =
      lib.mapAttrs (_: option: toString config.${option}) (lib.filterAttrs (_: option: config.${option} != [ ]) keys)
      // lib.optionalAttrs (config.description != "") { Description = config.description; }
      // lib.optionalAttrs (config.restartTriggers != [ ]) {
        X-Restart-Triggers = "${pkgs.writeText "X-Restart-Triggers-${name}" (toString (lib.flatten config.restartTriggers))}";
      };
  };

  service = { name, config, ... }: {
    imports = [ unit ];
    options = {
      serviceConfig = option (types.attrsOf value) { };
      environment = option (types.attrsOf (types.nullOr types.str)) { };
      path = option (types.listOf (types.either types.package types.str)) [ ];
      script = option types.lines "";
      preStart = option types.lines "";
      restartIfChanged = option types.bool true;
      stopIfChanged = option types.bool true;
    };
    config = {
      path = lib.mkAfter [ pkgs.coreutils pkgs.findutils pkgs.gnugrep pkgs.gnused pkgs.systemd ];
      environment.PATH = lib.mkIf (config.path != [ ]) "${lib.makeBinPath config.path}:${lib.makeSearchPathOutput "bin" "sbin" config.path}";
      serviceConfig = lib.mkMerge [
        (lib.mkIf (config.script != "") { ExecStart = "${jobScript "${name}-start" config.script} "; })
        (lib.mkIf (config.preStart != "") { ExecStartPre = [ (jobScript "${name}-pre-start" config.preStart) ]; })
      ];
    };
  };

  jobScript = name: text:
    let script = lib.replaceStrings [ "\\" "@" ] [ "-" "_" ] name; in
    "${pkgs.writeTextFile {
      name = script;
      derivationName = "unit-script-${script}";
      executable = true;
      destination = "/bin/${script}";
      text = "#!${pkgs.runtimeShell}\nset -e\n\n${text}\n\n";
    }}/bin/${script}";

  word = x: if x == true then "true" else if x == false then "false" else toString x;
  section = keys: lib.concatStrings (lib.concatLists (lib.mapAttrsToList (key: x: map (x: "${key}=${word x}\n") (lib.toList x)) keys));

  unitText = definition: lines: ''
    [Unit]
    ${section definition.unitConfig}
  '' + lines + lib.optionalString (definition.wantedBy != [ ]) ''

    [Install]
    WantedBy=${toString definition.wantedBy}
  '';
  serviceText = definition:
    let environment = config.systemd.globalEnvironment // definition.environment; in
    unitText definition ("[Service]\n"
      + lib.concatStrings (lib.mapAttrsToList (n: x: lib.optionalString (x != null) "Environment=${builtins.toJSON "${n}=${x}"}\n") environment)
      + lib.optionalString (!definition.restartIfChanged) "X-RestartIfChanged=false\n"
      + lib.optionalString (!definition.stopIfChanged) "X-StopIfChanged=false\n"
      + section definition.serviceConfig);

  # The store file of a unit, in a directory of its own.
  file = name: definition: pkgs.runCommand "unit-${lib.replaceStrings [ "@" ":" "\\" "[" "]" ] [ "-" "-" "-" "" "" ] name}${lib.optionalString (!definition.enable) "-disabled"}" { inherit (definition) text; passAsFile = [ "text" ]; } ''
    mkdir "$out"
    ${if definition.enable then ''cp "$textPath" "$out/${name}"'' else ''ln -s /dev/null "$out/${name}"''}
  '';

  all = lib.mapAttrs' (name: d: lib.nameValuePair "${name}.service" (d // { text = serviceText d; })) config.systemd.services
    // lib.mapAttrs' (name: d: lib.nameValuePair "${name}.target" (d // { text = "[Unit]\n${section d.unitConfig}\n"; })) config.systemd.targets;
in
{
  options.systemd = {
    services = option (types.attrsOf (types.submodule service)) { };
    targets = option (types.attrsOf (types.submodule unit)) { };
    globalEnvironment = option (types.attrsOf types.str) { };
    tmpfiles = option types.anything { };
    # The texts of all units by name, and the directory.
    texts = option (types.attrsOf types.str) { };
    directory = mkOption { type = types.package; };
  };

  config.systemd = {
    globalEnvironment = {
      LOCALE_ARCHIVE = "${pkgs.glibcLocales}/lib/locale/locale-archive";
      TZDIR = "${pkgs.tzdata}/share/zoneinfo";
    };
    texts = lib.mapAttrs (_: d: d.text) all;
    directory = pkgs.runCommand "system-units" { } ''
      mkdir "$out"
      ${lib.concatStrings (lib.mapAttrsToList (name: d: if d.overrideStrategy == "asDropin" then ''
        mkdir -p "$out/${name}.d"
        ln -s "${file name d}/${name}" "$out/${name}.d/overrides.conf"
      '' else ''
        ln -s "${file name d}/${name}" "$out/"
      '') all)}
      ${lib.concatStrings (lib.mapAttrsToList (name: d:
        lib.concatMapStrings (target: ''
          mkdir -p "$out/${target}.wants"
          ln -sfn "../${name}" "$out/${target}.wants/"
        '') d.wantedBy
        + lib.concatMapStrings (target: ''
          mkdir -p "$out/${target}.requires"
          ln -sfn "../${name}" "$out/${target}.requires/"
        '') d.requiredBy
        + lib.concatMapStrings (alias: ''
          ln -sfn "${name}" "$out/${alias}"
        '') d.aliases) all)}
      ln -s multi-user.target "$out/default.target"
      ln -s reboot.target "$out/ctrl-alt-del.target"
      ln -s rescue.target "$out/kbrequest.target"
      mkdir -p "$out/getty.target.wants" "$out/multi-user.target.wants"
      ln -s ../autovt@tty1.service "$out/getty.target.wants/"
      ln -s ../remote-fs.target "$out/multi-user.target.wants/"
    '';
  };
}
