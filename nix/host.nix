# nixosModules.host: VMs of microvm.nix that Ampoule starts. Imported beside microvm.nix's
# own host module, it adds microvm.vms.NAME.ampoule. A VM without it stays as it is.
#
# microvm.nix builds the guest, installs its runner, and makes interfaces, shares and
# bindings of devices by its own units. What is replaced is the command of
# microvm@NAME.service: Ampoule makes a plan of the runner when the system is built, and the
# unit carries the plan out. What cannot be carried over fails the evaluation or the build.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (builtins)
    attrNames
    concatStringsSep
    elem
    filter
    head
    isString
    length
    match
    ;
  inherit (lib)
    concatMap
    escapeShellArg
    filterAttrs
    hasInfix
    hasPrefix
    literalExpression
    mapAttrsToList
    mkDefault
    mkForce
    mkIf
    mkMerge
    mkOption
    optional
    optionals
    splitString
    toList
    types
    ;
  text = import ./lib.nix { inherit lib; };
  inherit (text) at positions;

  cfg = config.microvm.ampoule;
  inherit (config.microvm) stateDir;
  drivers = [
    "qemu"
    "cloud-hypervisor"
    "firecracker"
  ];

  # Who may put secrets where the sources are: sops-nix, agenix. A host that has neither does
  # not mind.
  secretServices = [
    "sops-install-secrets.service"
    "agenix-install-secrets.service"
  ];

  credential = types.submodule {
    options = {
      source = mkOption {
        type = types.nullOr (types.either types.str types.path);
        default = null;
        example = literalExpression "config.sops.secrets.api-key.path";
        description = ''
          Path of the file, or of the AF_UNIX socket, from which systemd loads the credential
          when the VM starts, as root. Not in the Nix store. null without a value: the
          credential is found by its name in the host's own credentials and credential
          stores (/etc/credstore and so on).
        '';
      };
      encrypted = mkOption {
        type = types.bool;
        default = false;
        description = "Whether the source was encrypted by systemd-creds encrypt.";
      };
      value = mkOption {
        type = types.nullOr types.str;
        default = null;
        description = ''
          A value that is no secret: it stands in the Nix store and in the unit. Beside a
          source it is the default for a missing file.
        '';
      };
      after = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "vault-agent.service" ];
        description = ''
          Units that bring the source. Those of sops-nix and agenix are known.
        '';
      };
    };
  };

  ampouleOptions = types.submodule (
    { config, ... }:
    {
      options = {
        enable = mkOption {
          type = types.bool;
          default = config.credentials != { } || config.settings != { };
          defaultText = literalExpression "credentials != { } || settings != { }";
          description = "Whether Ampoule starts this VM.";
        };
        credentials = mkOption {
          type = types.attrsOf credential;
          default = { };
          example = literalExpression ''{ API_KEY.source = "/run/secrets/api-key"; }'';
          description = ''
            Credentials for the guest, by name. In the guest they are system credentials:
            LoadCredential=API_KEY or ImportCredential=API_KEY in a service gets one.
          '';
        };
        adoptArgs = mkOption {
          type = types.listOf types.str;
          default = [ ];
          example = [
            "--without"
            "memory.mergeable"
          ];
          description = ''
            Further arguments of ampoule adopt, which takes the runner apart when the system is
            built; see ampoule-adopt(1).
          '';
        };
        preStart = mkOption {
          type = types.enum [
            "refuse"
            "service"
          ];
          default = "refuse";
          description = ''
            What is made of microvm.preStart in the guest, which is part of a script that does
            not run. With "service" it is a script of its own, an ExecStartPre= of the service:
            run by the same user in the same directory, and without an effect on the
            hypervisor's environment and limits.
          '';
        };
        settings = mkOption {
          type = types.attrsOf types.unspecified;
          default = { };
          example = literalExpression ''{ Readiness = "guest"; }'';
          description = ''
            Keys of [MicroVM] over what is made of the runner, see ampoule.microvm(5). A list
            is one line for each element. Lines of [Unit] and [Service] belong to
            systemd.services."microvm@NAME".
          '';
        };
      };
    }
  );

  vms = config.microvm.vms;
  enabled = filter (name: vms.${name}.ampoule.enable) (attrNames vms);

  # The evaluated guest of a VM, as microvm.nix finds it.
  guestOf =
    name:
    let
      vm = vms.${name};
    in
    if (vm.flake or null) != null then
      vm.flake.nixosConfigurations.${name}
    else if (vm.evaluatedConfig or null) != null then
      vm.evaluatedConfig
    else
      vm.config;

  service = name: config.systemd.services."microvm@${name}".serviceConfig or { };
  serviceLines = name: key: toList ((service name).${key} or [ ]);

  # Where somebody wrote what is at a path below an option: ["file:line"].
  vmPositions = name: path: positions ([ name ] ++ path) options.microvm.vms.definitionsWithLocations;
  foreign = filter (d: toString d.file != toString ./host.nix) options.systemd.services.definitionsWithLocations;
  servicePositions = name: key: positions [ "microvm@${name}" "serviceConfig" key ] foreign;
  # The same for microvm.PATH of a guest; where its configuration is no function, it can be
  # seen from the host.
  guestPositions =
    name: path:
    let
      option = (guestOf name).options.microvm.${head path} or { };
      definitions = option.definitionsWithLocations or [ ];
      inner = positions (builtins.tail path) definitions;
      outer = vmPositions name ([ "config" "microvm" ] ++ path);
    in
    if outer != [ ] then outer else inner;

  # What the unit loads: the credentials of the host's side, and those that microvm.nix would
  # have QEMU read as the VM's user.
  files = name: (guestOf name).config.microvm.credentialFiles or { };
  loaded = name: vms.${name}.ampoule.credentials;
  suffix = c: if c.source == null then "" else ":${text.percent (toString c.source)}";
  lines =
    name:
    let
      sources = filterAttrs (_: c: c.source != null || c.value == null) (loaded name);
      load = filterAttrs (_: c: !c.encrypted) sources;
      encrypted = filterAttrs (_: c: c.encrypted) sources;
      values = filterAttrs (_: c: c.value != null) (loaded name);
      standIns = filterAttrs (_: c: c.source != null && c.value == null) (loaded name);
      # systemd ends a unit whose source is missing without naming it. This stands in its
      # place, and Ampoule names it.
      missing = "ampoule: the source of this credential was missing";
    in
    {
      LoadCredential =
        mapAttrsToList (id: c: "${text.percent id}${suffix c}") load
        ++ mapAttrsToList (id: path: "${text.percent id}:${text.percent (toString path)}") (files name);
      LoadCredentialEncrypted = mapAttrsToList (id: c: "${text.percent id}${suffix c}") encrypted;
      SetCredential =
        mapAttrsToList (id: c: setLine id c.value) values
        ++ map (id: "${text.percent id}:${missing}") (attrNames standIns ++ attrNames (files name));
    };
  credentialKeys = [
    "LoadCredential"
    "LoadCredentialEncrypted"
    "SetCredential"
  ];
  otherCredentialKeys = [
    "SetCredentialEncrypted"
    "ImportCredential"
  ];

  # The lines of the host, over what is made of the runner. credentialFiles are there already.
  dropin =
    name:
    let
      vm = vms.${name}.ampoule;
      own = id: loaded name ? ${head (splitString ":" id)};
      systemd = match "([0-9]+).*" ((guestOf name).config.systemd.package.version or "");
      isValue = id: vm.credentials.${id}.value != null;
    in
    text.render {
      MicroVM =
        (if systemd == null then { } else { GuestSystemd = head systemd; })
        // vm.settings
        // {
          LoadCredential = filter own (lines name).LoadCredential;
          inherit (lines name) LoadCredentialEncrypted;
          SetCredential = map (id: setLine id vm.credentials.${id}.value) (
            filter isValue (attrNames vm.credentials)
          );
        };
      # When Ampoule stops waiting for the guest, as systemd does.
      Service.TimeoutStopSec =
        (service name).TimeoutStopSec or (service name).TimeoutSec or config.microvm.host.startupTimeout;
    };
  setLine = id: value: "${text.percent id}:${text.cEscape value}";

  # NAME.microvm, its drop-in, and the plan that they come to. `ampoule adopt` takes the
  # runner's script apart; what it does not understand ends the build, with the script's line.
  planOf =
    name:
    pkgs.runCommand "ampoule-${name}"
      {
        dropin = dropin name;
        passAsFile = [ "dropin" ];
      }
      ''
        mkdir -p "$out"/${escapeShellArg name}.microvm.d
        cd "$out"
        ${cfg.package}/bin/ampoule adopt ${(guestOf name).config.microvm.declaredRunner} --external \
          --name ${escapeShellArg name} --state-dir ${escapeShellArg "${stateDir}/${name}"} \
          ${concatStringsSep " " (map escapeShellArg (adoptArgs name))} -o ${escapeShellArg name}.microvm
        cp "$dropinPath" ${escapeShellArg name}.microvm.d/50-nixos.conf
        ${cfg.package}/bin/ampoule plan "$out"/${escapeShellArg name}.microvm --json >plan.json
      '';
  command = name: "${cfg.package}/bin/ampoule run --plan ${cfg.plans.${name}}/plan.json";

  # Lines of microvm.preStart, which lib/runner.nix of microvm.nix puts behind the first two
  # of the script, run elsewhere.
  adoptArgs =
    name:
    let
      vm = vms.${name}.ampoule;
      count = length (splitString "\n" (lib.removeSuffix "\n" (preStart name)));
    in
    optionals (preStart name != "" && vm.preStart == "service") [
      "--without"
      "3-${toString (2 + count)}"
    ]
    ++ vm.adoptArgs;
  preStart = name: (guestOf name).config.microvm.preStart or "";

  # What the script does before the hypervisor, in the state directory, as the VM's user.
  before =
    name:
    let
      guest = (guestOf name).config.microvm;
      runner = guest.declaredRunner;
      makers = {
        ext2 = pkgs.e2fsprogs;
        ext3 = pkgs.e2fsprogs;
        ext4 = pkgs.e2fsprogs;
        xfs = pkgs.xfsprogs;
        btrfs = pkgs.btrfs-progs;
        vfat = pkgs.dosfstools;
      };
      volume =
        v:
        let
          image = escapeShellArg v.image;
          label = if v.fsType == "vfat" then "-n" else "-L";
          words = optionals (v.label != null) [
            label
            v.label
          ] ++ v.mkfsExtraArgs;
        in
        ''
          if [ ! -e ${image} ]; then
            rm -f ${image}.new
            touch ${image}.new
            chattr +C ${image}.new 2>/dev/null || true
            truncate -s ${toString v.size}M ${image}.new
            mkfs.${v.fsType} ${concatStringsSep " " (map escapeShellArg words)} ${image}.new
            mv ${image}.new ${image}
          fi
        '';
      volumes = filter (v: v.autoCreate) (guest.volumes or [ ]);
      programs = [
        pkgs.coreutils
      ]
      ++ optionals (volumes != [ ]) (
        [ pkgs.e2fsprogs ]
        ++ map (v: makers.${v.fsType} or (throw "microvm.volumes of ${name}: ${v.fsType}: nothing is known that makes it")) volumes
      );
    in
    pkgs.writeShellScript "ampoule-${name}-before" (
      ''
        set -eu
        export PATH=${lib.makeBinPath (lib.unique programs)}''${PATH:+:$PATH}
        current=$(readlink current || true)
        if [ "$current" != ${runner} ]; then
          echo "${stateDir}/${name}/current leads to ''${current:-nothing}, and this system starts ${name} from ${runner}; systemctl start install-microvm-${name} sets it back" >&2
          exit 1
        fi
      ''
      + lib.optionalString (preStart name != "") "${
        pkgs.writeShellScript "microvm-${name}-pre-start" "set -eou pipefail\n${preStart name}"
      }\n"
      + lib.concatMapStrings volume volumes
    );

  unit =
    name:
    let
      runner = (guestOf name).config.microvm.declaredRunner;
      registered = runner.registerWithMachined or false;
      after = secretServices ++ concatMap (c: c.after) (lib.attrValues (loaded name));
      install = "install-microvm-${name}.service";
    in
    {
      wants = [ install ];
      after = [ install ] ++ after;
      serviceConfig = {
        Type = mkForce "notify";
        NotifyAccess = "main";
        ExecStart = [
          ""
          (command name)
        ];
        ExecStartPre = [ (before name) ];
        # Ampoule presses the power button when systemd sends it SIGTERM.
        ExecStop = [ "" ];
        KillMode = "mixed";
        # From the store: microvm@.service has root execute what the VM's user may replace.
        ExecStartPost = [ "" ] ++ optional registered "+${runner}/bin/microvm-register $MAINPID";
        ExecStopPost = [ "" ] ++ optional registered "+${runner}/bin/microvm-unregister";
        # A mistake does not go away by itself.
        RestartPreventExitStatus = mkDefault "2";
        RuntimeDirectory = "ampoule/vm/${name}";
        RuntimeDirectoryMode = "0700";
        RuntimeDirectoryPreserve = "restart";
        # Where relative disks lie, as for microvm.nix.
        Environment = [ "\"STATE_DIRECTORY=${text.percent stateDir}/${name}\"" ];
        CacheDirectory = "ampoule/vm/${name}";
        CacheDirectoryMode = "0700";
        # Guests' memory has their secrets in it.
        LimitCORE = mkDefault 0;
        MemorySwapMax = mkDefault 0;
        # In a mount namespace of its own a service does not see the credentials of others.
        PrivateMounts = mkDefault true;
      }
      // filterAttrs (_: list: list != [ ]) (lines name);
    };

  # Problems, each a sentence. `hard` are those of VMs that Ampoule starts.
  hard =
    name:
    let
      vm = vms.${name};
      guest = guestOf name;
      microvm = guest.config.microvm;
      here = path: at (vmPositions name ([ "ampoule" ] ++ path));
      option = "microvm.vms.${name}.ampoule";
      first =
        concatMap (
          id:
          let
            c = vm.ampoule.credentials.${id};
            path = [
              "credentials"
              id
            ];
            nameProblem = text.credentialNameProblem id;
            problem = text.sourceProblem c.source;
          in
          optional (nameProblem != null)
            "${here path}${option}.credentials.\"${id}\": ${nameProblem}; ${text.credentialNameForm}"
          ++
            optional (c.source != null && problem != null)
              "${here (path ++ [ "source" ])}${option}.credentials.${id}.source = \"${toString c.source}\": ${problem}; name the path at which sops-nix, agenix or a file of root's has it on the running host, such as config.sops.secrets.NAME.path"
          ++ optional (c.encrypted && c.source == null)
            "${here (path ++ [ "encrypted" ])}${option}.credentials.${id}.encrypted = true: there is no source; set ${option}.credentials.${id}.source"
          ++ optional (c.value == "")
            "${here (path ++ [ "value" ])}${option}.credentials.${id}.value = \"\": systemd takes no empty value; leave it out"
          ++
            optional (files name ? ${id})
              "${
                at (
                  guestPositions name [
                    "credentialFiles"
                    id
                  ]
                )
              }microvm.credentialFiles.${id} in the guest of ${name}: ${option}.credentials.${id} on the host has that name too; remove one of them"
        ) (attrNames vm.ampoule.credentials)
        ++
          map
            (
              script:
              "${
                at (
                  guestPositions name [
                    "binScripts"
                    script
                  ]
                )
              }microvm.binScripts.${script} in the guest of ${name}: nothing of this script would run: microvm.nix puts its own in its place (lib/runner.nix), ${(lostReason name).${script}}"
            )
            (filter (script: microvm.binScripts ? ${script}) (attrNames (lostReason name)))
        ++ optional (preStart name != "" && vm.ampoule.preStart == "refuse") "${
          at (guestPositions name [ "preStart" ])
        }microvm.preStart in the guest of ${name}: it is part of a script that Ampoule does not run; set ${option}.preStart = \"service\" if it does well as an ExecStartPre= of the service, or write it on the host"
        ++ map (
          s:
          "${
            at (
              guestPositions name [
                "cloud-hypervisor"
                "platformOEMStrings"
              ]
            )
          }microvm.cloud-hypervisor.platformOEMStrings in the guest of ${name}: the value of credential ${credentialOf s} stands in the Nix store and on the hypervisor's command line; write ${option}.credentials.${credentialOf s}.source = \"PATH\" on the host, and remove the string"
        ) (clearStrings microvm)
        ++
          optional (!(elem microvm.hypervisor drivers))
            "${
              at (guestPositions name [ "hypervisor" ])
            }microvm.hypervisor = \"${microvm.hypervisor}\" in the guest of ${name}: Ampoule has no driver for it; use one of ${concatStringsSep ", " drivers}, or remove ${option}"
        ++
          map
            (
              key:
              "${
                here [
                  "settings"
                  key
                ]
              }${option}.settings.${key}: credentials are set by ${option}.credentials"
            )
            (
              filter (key: elem key (credentialKeys ++ otherCredentialKeys)) (attrNames vm.ampoule.settings)
            )
        ++
          optional ((vm.updateFlake or null) != null)
            "${at (vmPositions name [ "updateFlake" ])}microvm.vms.${name}.updateFlake: microvm -u would change what is installed, and Ampoule starts what this system was built with; remove updateFlake, and update the input of the host's flake, or remove ${option}"
        ++ concatMap (
          key:
          map (
            line:
            "${at (servicePositions name key)}systemd.services.\"microvm@${name}\".serviceConfig.${key} = ${besides name line}"
          ) (filter (line: line != "" && !(elem line ((lines name).${key} or [ ]))) (serviceLines name key))
        ) (credentialKeys ++ otherCredentialKeys)
        ++ concatMap (
          key:
          map (
            where:
            "${where}: systemd.services.\"microvm@${name}\".serviceConfig.${key}: ${option} sets it, and one of the two would be lost; ${
              if key == "ExecStart" then
                "remove this one, or set ${option}.enable = false and start ${name} by it"
              else
                "remove this one; ampoule stops the VM by its power button"
            }"
          ) (servicePositions name key)
        ) [ "ExecStart" "ExecStop" "KillMode" "RuntimeDirectory" ]
        ++ map (
          id:
          "${
            at (
              guestPositions name [
                "ampoule"
                "credentials"
              ]
            )
          }microvm.ampoule.credentials in the guest of ${name}: nobody delivers ${id}${similar id (delivered name)}; write ${option}.credentials.${id}.source on the host, or remove it here"
        ) (filter (id: !(elem id (delivered name))) (microvm.ampoule.credentials or [ ]));
      # What was written within a function has no position, and is found by its result. This
      # makes the plan's name, and so evaluates the runner.
      second = optional (serviceLines name "ExecStart" != [ "" (command name) ])
        "systemd.services.\"microvm@${name}\".serviceConfig.ExecStart: it is not what ${option} sets (somebody's mkForce?); remove the other, or set ${option}.enable = false";
    in
    if first != [ ] then first else second;

  # What is wrong with a credential that the service loads beside those of `credentials`. A
  # value may be a secret, and is not repeated.
  besides =
    name: line:
    let
      words = splitString ":" line;
      id = head words;
      option = "microvm.vms.${name}.ampoule.credentials";
    in
    if hasInfix "*" id then
      "\"${id}\": the service would load it, and the guest would not get it; write ${option}, with the name of each"
    else if loaded name ? ${id} then
      "\"${id}:…\": ${option}.${id} loads it too; remove this one"
    else
      "\"${id}:…\": the service would load it, and the guest would not get it; write ${option}.${id}.source instead";

  # What to write in the place of a script that microvm.nix writes itself.
  lostReason = name: {
    microvm-run = "without a word. For secrets write microvm.vms.${name}.ampoule.credentials.ID.source on the host; for other work before the start microvm.preStart in the guest, or an ExecStartPre= of microvm@${name} on the host";
    microvm-shutdown = "and Ampoule stops the VM by its power button; for work at the stop, use ExecStopPost= of microvm@${name} on the host";
    microvm-balloon = "and with Ampoule it is ampoule memory ${name} SIZE";
  };

  # Strings of an SMBIOS table by which a credential is given in clear.
  credentialOf =
    s:
    let
      words = match "io[.]systemd[.]credential([.]binary)?:([^=]*).*" s;
    in
    if words == null then "ID" else lib.last words;
  clearStrings =
    microvm:
    filter (
      s: hasPrefix "io.systemd.credential" s && !(hasPrefix "io.systemd.credential:vmm.notify_socket=" s)
    ) (microvm.cloud-hypervisor.platformOEMStrings or [ ]);

  delivered = name: attrNames (loaded name) ++ attrNames (files name);
  similar =
    id: names:
    let
      found = filter (other: text.alike other == text.alike id) names;
    in
    if found == [ ] then "" else ", and ${head found} is delivered, which is another name";

  # Credentials that services of the guest ask for by a name that is nearly one that is
  # delivered.
  misspelt =
    name:
    let
      guest = guestOf name;
      names = delivered name;
      wanted = concatMap (
        unit:
        let
          s = guest.config.systemd.services.${unit}.serviceConfig or { };
        in
        map (id: { inherit unit id; }) (
          filter (id: !(elem id names) && similar id names != "") (
            filter (line: isString line && !(hasInfix ":" line)) (toList (s.LoadCredential or [ ]))
            ++ filter isString (toList (s.ImportCredential or [ ]))
          )
        )
      ) (attrNames (guest.config.systemd.services or { }));
    in
    map (
      w:
      "the guest of ${name}: ${w.unit}.service asks for the credential ${w.id}${similar w.id names}"
    ) wanted;

  # What is lost of VMs that are left as they are.
  soft =
    name:
    let
      guest = guestOf name;
      microvm = guest.config.microvm;
      ids = map (line: head (splitString ":" line)) (
        filter (line: isString line && line != "") (
          concatMap (serviceLines name) (credentialKeys ++ otherCredentialKeys)
        )
      );
      option = "microvm.vms.${name}.ampoule.credentials";
      reads = hasInfix "CREDENTIALS_DIRECTORY" (microvm.preStart or "") || (microvm.extraArgsScript or null) != null;
    in
    optional (microvm.binScripts ? microvm-run)
      "${
        at (
          guestPositions name [
            "binScripts"
            "microvm-run"
          ]
        )
      }microvm.binScripts.microvm-run in the guest of ${name}: nothing of this script runs: microvm.nix puts its own in its place (lib/runner.nix). For secrets write ${option}.ID.source = \"PATH\" on the host"
    ++
      optional
        (ids != [ ] && !((service name) ? ExecStart) && !reads && !(microvm.binScripts ? microvm-run))
        "${
          at (concatMap (servicePositions name) credentialKeys)
        }microvm@${name} loads ${concatStringsSep ", " (lib.unique ids)}, and the runner of microvm.nix reads no credentials of its service: the guest gets none; write ${option}.${head ids}.source on the host instead";

  others = filter (name: !(elem name enabled)) (attrNames vms);
  softly = concatMap soft others;
in
{
  _file = ./host.nix;

  options.microvm = {
    vms = mkOption {
      type = types.attrsOf (
        types.submodule {
          options.ampoule = mkOption {
            type = ampouleOptions;
            default = { };
            description = "Ampoule starts this VM, and delivers its credentials.";
          };
        }
      );
    };
    ampoule = {
      package = mkOption {
        type = types.package;
        default = pkgs.ampoule or (pkgs.callPackage ./package.nix { });
        defaultText = literalExpression "pkgs.ampoule";
        description = "The package of Ampoule.";
      };
      plans = mkOption {
        type = types.attrsOf types.package;
        readOnly = true;
        description = ''
          By name of the VM what its unit starts: plan.json, and the NAME.microvm of which it is
          made. It can be built and looked at before a switch.
        '';
      };
      strict = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether what is lost of VMs that Ampoule does not start fails the evaluation. By
          default it is a warning.
        '';
      };
    };
  };

  config = mkMerge [
    { microvm.ampoule.plans = lib.genAttrs enabled planOf; }
    {
      assertions = [
        {
          assertion = options.microvm ? stateDir;
          message = "nixosModules.host of Ampoule stands beside that of microvm.nix; import microvm.nixosModules.host too";
        }
      ]
      ++ map (message: {
        assertion = false;
        inherit message;
      }) (concatMap hard enabled ++ optionals cfg.strict softly);
      warnings = concatMap misspelt enabled ++ optionals (!cfg.strict) softly;
    }
    (mkIf (enabled != [ ]) {
      environment.systemPackages = [ cfg.package ];
      systemd.services = lib.listToAttrs (
        map (name: lib.nameValuePair "microvm@${name}" (unit name)) enabled
      );
    })
  ];
}
