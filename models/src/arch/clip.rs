//! CLIP's vision transformer (Radford et al., 2021), as LLaVA reads it: the output of an inner layer for each
//! patch of a square picture.

use jtllm_ir::{DType, Expr, Node, ScalarOp, build};

use super::build::{Build, Layer, Sight};
use super::settings::{epsilon, few, size};
use super::{BodyInputs, Rows, TILE};
use crate::config::Config;
use crate::error::LoadError;

/// The tower's numbers.
pub(super) struct Clip {
    /// Numbers of a vector.
    pub(super) width: i64,
    /// Pixels of a picture's side.
    pub(super) side: i64,
    /// Pixels of a patch's side.
    patch: i64,
    heads: i64,
    inner: i64,
    /// Layers that are computed: the last of them gives the result.
    layers: i64,
    activation: Activation,
    epsilon: f32,
}

#[derive(Clone, Copy)]
enum Activation {
    QuickGelu,
    Gelu,
}

impl Clip {
    /// Reads a `vision_config`; fields that it leaves out have the values of transformers' `CLIPVisionConfig`.
    /// `feature_layer` counts as there: 0 is the embedding, -1 the last layer.
    pub(super) fn read(config: &Config, feature_layer: i64) -> Result<Clip, LoadError> {
        let or = |field: &str, default: i64| match config.raw(field) {
            None => Ok(default),
            Some(_) => size(config, field),
        };
        let all = match config.raw("num_hidden_layers") {
            None => 12,
            Some(_) => few(config, "num_hidden_layers")?,
        };
        let layers = if feature_layer < 0 { all + 1 + feature_layer } else { feature_layer };
        if !(0..=all).contains(&layers) {
            let expected = format!("more than {feature_layer} layers, as vision_feature_layer says");
            return Err(config.wrong("num_hidden_layers", expected));
        }
        let (width, heads) = (or("hidden_size", 768)?, or("num_attention_heads", 12)?);
        let (side, patch) = (or("image_size", 224)?, or("patch_size", 32)?);
        if width % heads != 0 {
            return Err(config.wrong("hidden_size", format!("a multiple of the number of heads ({heads})")));
        }
        if side % patch != 0 || side > 1 << 11 {
            return Err(
                config.wrong("image_size", format!("a multiple of patch_size ({patch}), at most 2048"))
            );
        }
        let activation = match config.optional_text("hidden_act")? {
            None | Some("quick_gelu") => Activation::QuickGelu,
            Some("gelu") => Activation::Gelu,
            Some(_) => return Err(config.wrong("hidden_act", "quick_gelu or gelu")),
        };
        let inner = or("intermediate_size", 3072)?;
        let epsilon = epsilon(config, "layer_norm_eps", 1e-5)?;
        Ok(Clip { width, side, patch, heads, inner, layers, activation, epsilon })
    }

    /// Patches of a side.
    pub(super) fn grid(&self) -> i64 {
        self.side / self.patch
    }

    /// Rows of a picture: one for the whole, and one for each patch.
    pub(super) fn tokens(&self) -> i64 {
        self.grid() * self.grid() + 1
    }

    /// Rows of a pass: those of a picture, padded.
    pub(super) fn rows(&self) -> i64 {
        (self.tokens() + TILE - 1) / TILE * TILE
    }

    /// From `pixels` (`f32 [3 * side * side]`: all red, all green, all blue, each row by row) to a vector for
    /// each row (`f32 [T, width]`): first the whole, then the patches.
    pub(super) fn build(&self, build: &mut Build<'_>, prefix: &str) -> Result<Node, LoadError> {
        let pages = self.rows() / TILE;
        let rows = Rows::Many(self.rows());
        let inputs = BodyInputs::declare_cache(&mut build.graph, rows, self.rows(), pages);
        let name = |part: &str| format!("{prefix}{part}");
        let x = self.embedding(build, &inputs, &name("embeddings."))?;
        let mut x = build.layer_norm(x, &name("pre_layrnorm"), self.epsilon)?;
        build.tap("hidden.vision.embeddings_ln", x);
        for layer in 0..self.layers {
            x = self.layer(build, x, layer, &inputs, &name(&format!("encoder.layers.{layer}.")))?;
            build.tap(&format!("hidden.vision.layer{layer}"), x);
        }
        Ok(x)
    }

    fn embedding(&self, build: &mut Build<'_>, inputs: &BodyInputs, prefix: &str) -> Result<Node, LoadError> {
        let (side, patch, grid, width) = (self.side, self.patch, self.grid(), self.width);
        let area = patch * patch;
        let name = |part: &str| format!("{prefix}{part}");
        let pixels = build.graph.input("pixels", DType::F32, &[Expr::int(3 * side * side)], None);
        let space = [inputs.tokens.clone(), Expr::int(3 * area)];
        // Row 0 is no patch, and padding is none either; what they read does not matter.
        let patches = build.graph.view(pixels, &space, &[], |c| {
            let at = (c.axis(0).maximum(&Expr::int(1)) - Expr::int(1)).minimum(&Expr::int(grid * grid - 1));
            let (row, column) = (at.clone().div_floor(grid), at.modulo(grid));
            let (color, inside) = (c.axis(1).div_floor(area), c.axis(1).modulo(area));
            let y = row * patch + inside.clone().div_floor(patch);
            let x = column * patch + inside.modulo(patch);
            vec![color * (side * side) + y * side + x]
        });
        let weight = build.weight(&name("patch_embedding.weight"), &[width, 3, patch, patch])?;
        let space = [Expr::int(width), Expr::int(3 * area)];
        let weight = build.graph.view(weight, &space, &[], |c| {
            let k = c.axis(1);
            let inside = k.clone().modulo(area);
            vec![c.axis(0), k.div_floor(area), inside.clone().div_floor(patch), inside.modulo(patch)]
        });
        let patches = build::linear(&mut build.graph, patches, weight, None);
        let whole = build.vector(&name("class_embedding"), width)?;
        let space = build.graph.shape(patches).to_vec();
        let whole = build.graph.view(whole, &space, &[], |c| vec![c.axis(1)]);
        let is_whole = build.graph.index(DType::Bool, &space, &[], |c| c.axis(0).less_than(&Expr::int(1)));
        let x = build.graph.map(ScalarOp::Select, &[is_whole, whole, patches]);
        let places = build.matrix(&name("position_embedding.weight"), self.tokens(), width)?;
        let last = Expr::int(self.tokens() - 1);
        let places = build.graph.view(places, &space, &[], |c| vec![c.axis(0).minimum(&last), c.axis(1)]);
        Ok(build.add(x, places))
    }

    fn layer(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
        prefix: &str,
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("{prefix}{part}");
        let head = self.width / self.heads;
        let normal = build.layer_norm(x, &name("layer_norm1"), self.epsilon)?;
        let mut heads = |part: &str| {
            let x = build.linear(normal, &name(&format!("self_attn.{part}")), [self.width; 2], true)?;
            Ok::<Node, LoadError>(build.heads(x, [self.heads, head], |h, d| h * head + d))
        };
        let qkv = [heads("q_proj")?, heads("k_proj")?, heads("v_proj")?];
        let spec = Layer {
            name: &format!("vision.layers.{layer}"),
            heads: self.heads,
            key_heads: self.heads,
            width: head,
            scale: 1.0 / (head as f32).sqrt(),
            sight: Sight::All,
            slopes: None,
        };
        let mixed = build.attention(&spec, inputs, qkv);
        let mixed = build.linear(mixed, &name("self_attn.out_proj"), [self.width; 2], true)?;
        let x = build.add(x, mixed);
        let normal = build.layer_norm(x, &name("layer_norm2"), self.epsilon)?;
        let inner = build.linear(normal, &name("mlp.fc1"), [self.inner, self.width], true)?;
        let inner = match self.activation {
            Activation::Gelu => build::gelu(&mut build.graph, inner),
            Activation::QuickGelu => build::quick_gelu(&mut build.graph, inner),
        };
        let inner = build.linear(inner, &name("mlp.fc2"), [self.width, self.inner], true)?;
        Ok(build.add(x, inner))
    }
}
